"""What a request may send to a socket that the YAML does not name in ``inputs``.

Such a socket takes values. It takes nothing that its component would execute, such as a template, and no path of a
file of the server. The owner of the YAML can allow either: a socket that is named in ``inputs`` takes all that its type
allows.
"""

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import is_typeddict

from hayhooks.toolkit import yaml_types
from hayhooks.toolkit.inputs import is_haystack_data

if TYPE_CHECKING:
    from haystack import Pipeline

# Parameters of `run` that are executed, or that name a file. A regular expression can occupy the interpreter for ever,
# and a JSON schema can refer to files. The types of these parameters do not tell.
_EXECUTED = re.compile(r"(?:^|_)(?:template|pattern|regex|schema)s?$")
_PATHS = re.compile(r"(?:^|_)(?:(?:file)?path|file|filename)s?$")
_JOINERS = "haystack.components.joiners."


class UnnamedSockets:
    """The types that a request may send to the sockets of *pipeline*."""

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline
        self._components = dict(pipeline.walk())
        # The keys of a document's metadata whose files a component reads, unless it stays within a directory.
        free = [each for each in self._components.values() if not getattr(each, "root_path", None)]
        self._path_keys = {str(key) for each in free if (key := getattr(each, "file_path_meta_field", None))}

    def request_type(self, component: str, name: str, type_: Any) -> Any | None:
        """Return the type for the socket *name*, whose own type is *type_*; None if JSON cannot express it.

        What must not be sent is refused when the request is validated; the message names the socket.
        """
        request_type = yaml_types.json_type(type_)
        if request_type is None:
            return None
        subject = f"{component}.{name}"
        match self._use(component, name, type_, frozenset()):
            case "code":
                return _refusing(f"{subject} would be executed")
            case "path":
                inline = _inline_type(type_)
                if inline is None:
                    return _refusing(f"{subject} would be the path of a file of the server")
                request_type = Annotated[inline, BeforeValidator(partial(_refuse_paths, subject))]
        if self._path_keys:
            return Annotated[request_type, BeforeValidator(partial(_refuse_keys, subject, self._path_keys))]
        return request_type

    def _use(self, component: str, name: str, type_: Any, before: frozenset[str]) -> Literal["code", "path", "value"]:
        """Return as what the socket's value is used; *before* are the joiners that lead to it."""
        # Sockets that are no parameters of `run` are the variables of a template.
        is_parameter = name in inspect.signature(self._components[component].run).parameters
        if is_parameter and _EXECUTED.search(name):
            return "code"
        if _may_be_path(type_) or (is_parameter and _PATHS.search(name)):
            return "path"
        # A joiner passes its values on as they are.
        if component not in before and type(self._components[component]).__module__.startswith(_JOINERS):
            for _, receiver, edge in self._pipeline.graph.out_edges(component, data=True):
                socket = edge["to_socket"]
                use = self._use(receiver, socket.name, socket.type, before | {component})
                if use != "value":
                    return use
        return "value"


def _may_be_path(type_: Any, within: frozenset[Any] = frozenset()) -> bool:
    """Whether a path, or a ``ByteStream`` in whose place components take paths, is part of *type_*.

    *within* are the classes around it, one of which it may be.
    """
    type_ = getattr(type_, "__supertype__", None) or getattr(type_, "__value__", type_)  # NewType, `type X = ...`
    if any(_may_be_path(argument, within) for argument in get_args(type_)):
        return True
    if not isinstance(type_, type) or type_ in within:
        return False
    if issubclass(type_, os.PathLike) or type_.__name__ == "ByteStream":
        return True
    is_data = is_dataclass(type_) or hasattr(type_, "model_fields") or is_typeddict(type_)
    if not is_data or is_haystack_data(type_):
        return False
    return any(_may_be_path(field, within | {type_}) for field in _field_types(type_))


def _field_types(cls: type) -> list[Any]:
    try:
        return list(get_type_hints(cls).values())
    except Exception:  # evaluating annotations runs user code
        return [os.PathLike]  # unknown: take no chances


def _inline_type(type_: Any) -> Any | None:
    """Remove from *type_* all but Haystack's data classes, which hold content; None if nothing remains."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _inline_type(arguments[0])
    if origin in yaml_types.UNIONS:
        members = tuple(member for argument in arguments if (member := _inline_type(argument)) is not None)
        return Union[members] if set(members) - {type(None)} else None  # noqa: UP007 - X | Y takes no tuple
    if origin is not None:
        is_mapping = isinstance(origin, type) and issubclass(origin, Mapping)
        kept = [
            argument if argument is ... or (is_mapping and index == 0) else _inline_type(argument)
            for index, argument in enumerate(arguments)
        ]
        return None if None in kept else origin[tuple(kept)]
    return type_ if type_ is type(None) or is_haystack_data(type_) else None


def _refusing(reason: str) -> Any:
    """Return a type that accepts null alone, and is not shown in schemas."""

    def refuse(value: Any) -> Any:
        if value is not None:
            raise ValueError(_refusal(reason))
        return value

    hidden: Any = SkipJsonSchema  # to type checkers it is another name of Annotated
    return Annotated[Any, BeforeValidator(refuse), hidden()]


def _refuse_paths(subject: str, value: Any) -> Any:
    if any(isinstance(item, str) for item in (value if isinstance(value, list) else [value])):
        reason = f'{subject} takes content, {{"data": ..., "mime_type": ...}}, and no path of a file of the server'
        raise ValueError(_refusal(reason))
    return value


def _refuse_keys(subject: str, keys: set[str], value: Any) -> Any:
    if key := _key_within(value, keys):
        raise ValueError(_refusal(f"{subject} has the key {key!r}, which would be the path of a file of the server"))
    return value


def _key_within(value: Any, keys: set[str]) -> str | None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if found := keys & item.keys():
                return min(found)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return None


def _refusal(reason: str) -> str:
    return f"{reason}: a request can set it only if the YAML names it in inputs"
