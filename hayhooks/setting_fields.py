"""The fields of settings: which variables set each, which values it accepts, and what is wrong with a value."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ByteSize, ValidationError

from hayhooks.env_file import env_file_names, upper_names

PREFIX = "HAYHOOKS_"

_MASK = "***"
_MAX_SHOWN = 200  # characters of a wrong value


def problems(settings: type[BaseModel], error: ValidationError) -> list[str]:
    """Describe each wrong setting in a line: name, masked value, accepted values."""
    lines = []
    for detail in error.errors(include_url=False):
        location = str(detail["loc"][0]) if detail["loc"] else ""
        field = next(
            (name for name in settings.model_fields if location in (name, *variable_names(settings, name))), ""
        )
        if not field:
            lines.append(f"{location}: {detail['msg']}".removeprefix(": "))
            continue
        value = repr(masked(settings, field, detail["input"]))
        value = value if len(value) <= _MAX_SHOWN else f"{value[:_MAX_SHOWN]}..."
        why = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
        names = variable_names(settings, field)
        used = names & upper_names(os.environ) or names & upper_names(env_file_names())
        lines.append(f"{min(used or {PREFIX + field.upper()})}={value}: must be {accepted(settings, field)}{why}")
    return lines


def accepted(settings: type[BaseModel], field: str) -> str:
    """Describe the values that the setting *field* accepts."""
    if field in _ACCEPTED_BY_FIELD:
        return _ACCEPTED_BY_FIELD[field]
    annotation = settings.model_fields[field].annotation
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(get_args(annotation))}"
    if annotation not in (int, float):
        return next(words for known, words in _ACCEPTED_BY_TYPE.items() if annotation in (known, known | None))
    bounds = {type(bound).__name__: bound for bound in settings.model_fields[field].metadata}
    lowest = bounds["Ge"].ge
    kind = "an integer" if annotation is int else "a number"
    return f"{kind} from {lowest} to {bounds['Le'].le}" if "Le" in bounds else f"{kind} of at least {lowest}"


_ACCEPTED_BY_FIELD = {
    "root_path": "a path that begins with a slash, such as /hayhooks, or empty",
    "cors_allow_origin_regex": "a regular expression",
    "canary": "a share of the requests",
    "canary_error_rate": "a share of the requests",
    "canary_slowdown": "0, or a number from 1 on",
    "trial_error_rate": "a share of the requests",
}
_ACCEPTED_BY_TYPE: Mapping[Any, str] = {
    bool: "true or false",
    ByteSize: "a size such as 100MiB, or a number of bytes",
    list[str]: 'a list, as JSON (["a", "b"]) or separated by commas (a,b)',
    Path: "a path",
    str: "a text",
}


def variable_names(settings: type[BaseModel], field: str) -> set[str]:
    """Return the environment variables that set *field*."""
    alias = settings.model_fields[field].validation_alias
    return {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else {PREFIX + field.upper()}


def masked(settings: type[BaseModel], field: str, value: Any) -> Any:
    """Return *value*, or a mask for it if *field* is a secret."""
    if settings.model_fields[field].repr or not value:
        return value
    return [_MASK] * len(value) if isinstance(value, list) else _MASK
