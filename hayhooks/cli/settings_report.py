"""Report settings: their values and sources, and variables that are not settings."""

import os
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from hayhooks.settings import ENV_FILE, PREFIX, Settings, env_file_names, masked, upper_names, variable_names


def shown(settings: Settings) -> dict[str, Any]:
    """Return all settings by environment variable, with secrets masked."""
    values = settings.model_dump(mode="json")
    return {PREFIX + field.upper(): masked(field, value) for field, value in values.items()}


def sources(options: Collection[str] = ()) -> dict[str, str]:
    """Return the source of each field, ``command line`` for those in *options*."""
    environment, file = upper_names(os.environ), upper_names(env_file_names())

    def source(field: str) -> str:
        names = variable_names(field)
        if field in options:
            return "command line"
        return "environment" if environment & names else ENV_FILE if file & names else "default"

    return {field: source(field) for field in Settings.model_fields}


def unknown() -> list[str]:
    """Return a warning for each ``HAYHOOKS_`` variable that is not a setting."""
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    # Compared without the prefix, which would make every name similar to every other.
    suffixes = [name.removeprefix(PREFIX) for name in known]
    warnings = []
    for where, names in (("the environment", os.environ), (ENV_FILE, env_file_names())):
        for name in sorted(upper_names(names)):
            if name.startswith(PREFIX) and name not in known:
                close = get_close_matches(name.removeprefix(PREFIX), suffixes, n=1)
                hint = f"did you mean {PREFIX}{close[0]}?" if close else "`hayhooks config` lists them"
                warnings.append(f"{name} in {where} is not a setting; {hint}")
    return warnings
