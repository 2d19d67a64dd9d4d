"""Report settings: their values and sources, and variables that are not settings."""

import os
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hayhooks.env_file import ENV_FILE_VARIABLE, env_file, env_file_values, upper_names
from hayhooks.setting_fields import PREFIX, masked, variable_names
from hayhooks.settings import Settings, plain_log_level


def shown(settings: Settings) -> dict[str, Any]:
    """Return all settings by environment variable, with secrets masked."""
    values = settings.model_dump(mode="json")
    return {PREFIX + field.upper(): masked(Settings, field, value) for field, value in values.items()}


def sources(options: Collection[str] = ()) -> dict[str, str]:
    """Return the source of each field, ``command line`` for those in *options*; for the environment file its path."""
    read = (("environment", os.environ), (env_file_path(), env_file_values()))

    def source(field: str) -> str:
        if field in options:
            return "command line"
        names = variable_names(Settings, field)
        found = [where for where, variables in read if upper_names(variables) & names]
        if field == "log":
            found += [where for where, variables in read if plain_log_level(variables)]
        return next(iter(found), "default")

    return {field: source(field) for field in Settings.model_fields}


def env_file_path() -> str:
    """Return the path of the environment file, relative if it is in the working directory; "" if there is none."""
    file = env_file()
    return "" if file is None else file.name if file.parent == Path.cwd() else str(file)


def unknown() -> list[str]:
    """Return a warning for each ``HAYHOOKS_`` variable that is not a setting."""
    known = {ENV_FILE_VARIABLE, *(name for field in Settings.model_fields for name in variable_names(Settings, field))}
    # Compared without the prefix, which would make every name similar to every other.
    suffixes = [name.removeprefix(PREFIX) for name in known]
    warnings = []
    for where, names in (("the environment", os.environ), (env_file_path(), env_file_values())):
        for name in sorted(upper_names(names)):
            if name.startswith(PREFIX) and name not in known:
                close = get_close_matches(name.removeprefix(PREFIX), suffixes, n=1)
                hint = f"did you mean {PREFIX}{close[0]}?" if close else "`hayhooks config` lists them"
                warnings.append(f"{name} in {where} is not a setting; {hint}")
    return warnings
