"""Name hints: "did you mean" for a name, an attribute, a key, a socket, or a word of a template that does not exist."""

import builtins
import inspect
import linecache
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from inspect import getattr_static
from itertools import islice
from types import FrameType
from typing import Any

from hayhooks.errors import Place, safe_str
from hayhooks.kernel.await_hints import await_hint
from hayhooks.kernel.import_hints import forgotten_import
from hayhooks.kernel.import_names import OFTEN_FORGOTTEN
from hayhooks.kernel.places import OpenFiles, UserFiles, frames_of
from hayhooks.kernel.templates import (
    TEMPLATE,
    attributes_in,
    is_jinja,
    place_of_variable,
    template_line,
    unmet_variable,
)
from hayhooks.kernel.user_errors import WRONG_NAME, chain_of, files_near, stream_call

_NOT_GIVEN = re.compile(r"missing \d+ required .*arguments?: '(\w+)'")  # Python's TypeError
_JINJA = re.compile(r"No (?P<kind>filter|test) named '(?P<name>\w+)'|unknown tag '(?P<tag>\w+)'")
_UNCLOSED = re.compile(r"(?:nesting mistake|Unexpected end).* The innermost block that needs to be closed is '(\w+)'")
_SOCKET = re.compile(  # Haystack's PipelineConnectError
    r"'(?P<of>[^'\s]+)\.(?P<socket>\w+)'? does not exist\. (In|Out)put connections of \S+ are: (?P<known>.*)", re.DOTALL
)
_TYPES = {"string": "str", "integer": "int", "boolean": "bool", "number": "float", "array": "list"}  # of JSON Schema
_TAGS = ("for", "endfor", "if", "elif", "else", "endif", "set", "endset", "message", "endmessage")  # the most used
_UNDEFINED = re.compile(
    r"'(?P<owner>[\w.]+) object' has no attribute '(?P<attribute>\w+)'|'(?P<variable>\w+)' is undefined"
)

_ALIKE_BUILTINS = 0.8  # but not store and str
_ALIKE_KEYS = 0.6  # reply and replies
_MAX_NAMES = 2_000  # that are compared: a dict may have millions of keys


def name_hint(error: BaseException, files: UserFiles) -> str:
    """Say which name was meant in *error*, or in what led to it; "" if none is known.

    A template that asks for the name is told with its place in *files*.
    """
    for each in chain_of(error):
        with suppress(Exception):  # it asks objects of the user's for their names
            call, not_given = stream_call(each), _NOT_GIVEN.search(safe_str(each))
            if unmet := unmet_variable(each):
                place = place_of_variable(unmet.component, unmet.name, files_near(error), files)
                if unmet.meant:
                    return f"did you mean {unmet.meant!r}?"
                given = _closest(unmet.name, call.given if call else _texts_in_code(each))
                meant = f"did you mean {unmet.name!r} instead of {given!r}? " if given else ""
                return f"{meant}{_asked(place)}".rstrip()
            if call and not_given and (given := _closest(not_given[1], call.given)):
                return f"did you mean {not_given[1]!r} instead of {given!r}?"
            if hint := _local_hint(each) or _forgotten_hint(each):
                return hint
            if hint := _unclosed_hint(each) or _empty_hint(each):
                return hint
            if meant := _meant(each, [frame for frame, _ in frames_of(each)]):
                place = None
                if (wrong := WRONG_NAME.search(safe_str(each)) or _SOCKET.search(safe_str(each))) and wrong["of"]:
                    component, name = _pipeline(each).get_component(wrong["of"]), meant.strip("'").rpartition(".")[2]
                    place = place_of_variable(component, name, files_near(error), files)
                return f"did you mean {meant}? {_asked(place)}".rstrip()
            if hint := await_hint(each):
                return hint
    return ""


def _forgotten_hint(error: BaseException) -> str:
    """Return the import of the name that *error* misses, unless a local name is nearly the same."""
    if not isinstance(error, NameError) or not error.name:
        return ""
    frames = [frame for frame, _ in frames_of(error)]
    lines = (linecache.getline(frame.f_code.co_filename, line) for frame, line in frames_of(error))
    if error.name in _TYPES and not any(f"{error.name}." in line for line in lines):
        return f"did you mean {_TYPES[error.name]}?"
    known = error.name[:1].isupper() or error.name in OFTEN_FORGOTTEN
    return forgotten_import(error.name) if known or not _meant(error, frames) else ""


def _unclosed_hint(error: BaseException) -> str:
    """Say which block of a template is not closed, if that is what Jinja's *error* is about."""
    found = _UNCLOSED.search(safe_str(error)) if is_jinja(error) else None
    source, last = getattr(error, "source", None), template_line(error)
    if found is None or not isinstance(source, str) or last is None:
        return ""
    begun = []
    for number, line in enumerate(source.splitlines()[:last], 1):
        for tag in re.findall(rf"{{%[-+]?\s*(end)?{found[1]}\b", line):
            if not tag:
                begun.append(number)
            elif begun:
                begun.pop()
    return f"{{% {found[1]} %}} of line {begun[-1]} has no {{% end{found[1]} %}}" if begun else ""


def _empty_hint(error: BaseException) -> str:
    """Say which name of a template was meant that made a message empty; to Jinja an unknown one is an empty text."""
    for owner, name in attributes_in(error) if "content in template is empty" in safe_str(error) else ():
        names = owner if isinstance(owner, dict) else dir(owner)
        if name not in names and (meant := _closest(name, names)):
            return f"did you mean {meant!r} instead of {name!r}?"
    return ""


def _local_hint(error: BaseException) -> str:
    """Say which local of ``setup`` should be an attribute, if *error* misses that."""
    name, is_none = getattr(error, "name", None), "NoneType" in safe_str(error)
    for frame, line in frames_of(error):
        setup = getattr(type(frame.f_locals.get("self")), "setup", None)
        if not inspect.isfunction(setup):
            continue
        names = [str(name)] if isinstance(error, NameError | AttributeError) and not is_none else []
        if is_none:
            names = re.findall(r"\bself\.(\w+)", linecache.getline(frame.f_code.co_filename, line))
        source = inspect.getsource(setup)
        for local in names:
            is_local = re.search(rf"^\s*{local}\s*(:[^=\n]+)?=[^=]", source, re.MULTILINE)
            if is_local and getattr_static(frame.f_locals["self"], local, None) is None:
                return f"{local} is a local of setup(): write `self.{local} = ...` there"
        return ""
    return ""


def _asked(place: Place | None) -> str:
    return f"{place.short} asks for it" if place else ""


def _meant(error: BaseException, frames: list[FrameType]) -> str:
    """Return the name that was meant in *error*, which went through *frames*, the innermost first; "" for none."""
    if not frames:
        return ""
    local = frames[0].f_locals
    match error:
        case NameError(name=str(name)):
            if getattr_static(local.get("self"), name, None) is not None:  # a property may be what has failed
                return f"self.{name}"
            own = {**frames[0].f_globals, **local}
            return _closest(name, {**vars(builtins), **own}, _ALIKE_BUILTINS) or _closest(name, own)
        case AttributeError(name=str(name), obj=owner):
            return _closest(name, dir(owner))
        case KeyError(args=(str(name),)):
            meant = next(
                (
                    close
                    for keys in _keys(frames[0])
                    if name not in keys and (close := _closest(name, keys, _ALIKE_KEYS))
                ),
                "",
            )
            return meant and repr(meant)
        case ValueError() if found := WRONG_NAME.search(safe_str(error)):
            inputs = _pipeline(error).inputs(include_components_with_connected_inputs=True)
            names = inputs.get(found["of"], {}) if found["input"] else inputs
            meant = _closest(found["input"] or found["component"], names)
            return meant and repr(meant)
        case _ if found := _SOCKET.search(safe_str(error)):
            meant = _closest(found["socket"], re.findall(r"(\w+) \(type", found["known"]))
            return meant and repr(f"{found['of']}.{meant}")
        case _ if is_jinja(error):
            return _meant_in_template(error, frames)
    return ""


def _meant_in_template(error: BaseException, frames: list[FrameType]) -> str:
    receivers = [frame.f_locals.get("self") for frame in frames]
    if found := _JINJA.search(safe_str(error)):
        if found["tag"]:
            return _closest(found["tag"], [*re.findall(r"'(\w+)'", safe_str(error))[1:], *_TAGS])
        kinds = f"{found['kind']}s"  # of an environment, which a compiler has too
        known = [getattr(getattr(each, "environment", each), kinds, None) for each in receivers]
        return _closest(found["name"], next((names for names in known if isinstance(names, dict)), ()))
    if (found := _UNDEFINED.search(safe_str(error))) is None:
        return ""
    frame = next((each for each in frames if each.f_code.co_filename == TEMPLATE), frames[0])
    variables = frame.f_locals  # the template's
    if found["variable"]:
        return _closest(found["variable"], variables)
    kind = found["owner"].rpartition(".")[2]
    owners = [each for each in _values(variables.values()) if type(each).__name__ == kind]
    keys = (key for each in owners for key in (each if isinstance(each, dict) else dir(each)))
    return _closest(found["attribute"], (key for key in keys if isinstance(key, str)))


def _values(values: Iterable[Any]) -> list[Any]:
    """Return *values* and those in the dicts and lists among them."""
    found = list(values)
    for value in found:  # it grows
        if len(found) < _MAX_NAMES and isinstance(value, dict | list):
            found += islice(value.values() if isinstance(value, dict) else value, _MAX_NAMES)
    return found


def _keys(frame: FrameType) -> Iterator[list[str]]:
    """Yield the keys of the dicts in *frame*, its own first, and of the results of its wrapper's pipelines."""
    named = [frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals]
    this = getattr(frame.f_locals.get("self"), "__dict__", {})
    for value in _values([*frame.f_locals.values(), *named, *this.values()]):
        if hasattr(value, "graph") and hasattr(value, "outputs"):
            results = [value.outputs(include_components_with_connected_outputs=True)]
        elif hasattr(value, "__haystack_output__"):  # an Agent
            results = [value.__haystack_output__._sockets_dict]
        else:
            results = [value]
        yield from (
            [key for key in each if isinstance(key, str)] for each in _values(results) if isinstance(each, dict)
        )


def _texts_in_code(error: BaseException) -> Iterator[str]:
    """Yield the texts in the functions of the user that *error* went through, such as the keys of a dict."""
    for frame, line in frames_of(error):
        if OpenFiles().place(frame.f_code.co_filename, line):
            for value in frame.f_code.co_consts:  # the keys of a dict may be one tuple
                yield from (each for each in (value if isinstance(value, tuple) else [value]) if isinstance(each, str))


def _pipeline(error: BaseException) -> Any:
    """Return the pipeline that has raised *error*."""
    receivers = (frame.f_locals.get("self") for frame, _ in frames_of(error))
    return next(each for each in receivers if hasattr(each, "get_component") and hasattr(each, "inputs"))


def _closest(name: str, names: Iterable[str], alike: float = 0.7) -> str:
    """Return the most similar of *names*; "" if none is as much *alike*, from 0 to 1."""
    by_lower = {each.lower(): each for each in islice(names, _MAX_NAMES) if each != name and not each.startswith("__")}
    return next((by_lower[close] for close in get_close_matches(name.lower(), by_lower, 1, alike)), "")
