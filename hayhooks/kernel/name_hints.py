"""Name hints: "did you mean" for a name, an attribute, a key or a socket that does not exist."""

import builtins
import re
import traceback as tracebacks
from collections.abc import Iterable
from contextlib import suppress
from inspect import getattr_static
from itertools import islice
from typing import Any

from hayhooks.errors import safe_str
from hayhooks.kernel.user_errors import chained
from hayhooks.toolkit.yaml_source import closest

_SOCKET = re.compile(r"Input '(?P<socket>\w+)' not found in component '(?P<component>\w+)'")  # Haystack's ValueErrors
_COMPONENT = re.compile(r"[Cc]omponent named '?(?P<component>\w+)'? not found in the pipeline")

_MAX_NAMES = 2_000  # that are compared: a dict may have millions of keys


def name_hint(error: BaseException) -> str:
    """Say which name was meant in *error*, or in what led to it; "" if none is known."""
    for each in (error, *(linked for _, linked in chained(error))):
        with suppress(Exception):  # it asks objects of the user's for their names
            if meant := _meant(each):
                return f"did you mean {meant}?"
        if isinstance(each, TypeError | AttributeError) and "'coroutine' object" in safe_str(each):
            return "a coroutine is no result yet: forgot await?"
    return ""


def _meant(error: BaseException) -> str:
    frames = [frame for frame, _ in tracebacks.walk_tb(error.__traceback__)]
    if not frames:
        return ""
    local = frames[-1].f_locals
    match error:
        case NameError(name=str(name)):
            if getattr_static(local.get("self"), name, None) is not None:  # a property may be what has failed
                return f"self.{name}"
            return _closest(name, {**vars(builtins), **frames[-1].f_globals, **local})
        case AttributeError(name=str(name), obj=owner):
            return _closest(name, dir(owner))
        case KeyError(args=(str(name),)):
            dicts = [value for value in local.values() if isinstance(value, dict) and name not in value]
            meant = next(
                (close for each in dicts if (close := _closest(name, (key for key in each if isinstance(key, str))))),
                "",
            )
            return meant and repr(meant)
        case ValueError() if found := _SOCKET.search(message := safe_str(error)) or _COMPONENT.search(message):
            inputs: dict[str, Any] = {}
            for frame in frames:
                pipeline: Any = frame.f_locals.get("self")
                if hasattr(pipeline, "graph") and hasattr(pipeline, "inputs"):
                    inputs = pipeline.inputs(include_components_with_connected_inputs=True)
            given = found.groupdict()
            names = inputs.get(given["component"], {}) if "socket" in given else inputs
            meant = _closest(given.get("socket", given["component"]), names)
            return meant and repr(meant)
    return ""


def _closest(name: str, names: Iterable[str]) -> str:
    by_lower = {known.lower(): known for known in islice(names, _MAX_NAMES) if not known.startswith("__")}
    return by_lower.get(closest(name.lower(), by_lower), "")
