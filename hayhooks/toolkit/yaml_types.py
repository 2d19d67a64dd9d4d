"""Types of a pipeline's sockets: what a JSON request can send, and which value suits several sockets."""

import types
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from hayhooks.toolkit.inputs import is_haystack_data

UNIONS = (Union, types.UnionType)
_JSON_CLASSES = (
    str, int, float, bytes, list, dict, tuple, set, frozenset, type(None),
    Enum, date, time, timedelta, Decimal, Path, UUID,
)  # fmt: skip


def json_type(type_: Any) -> Any | None:
    """Remove callbacks, tools and secrets from *type_*; return None if nothing remains.

    Classes that pydantic cannot build from JSON become ``Any``.
    """
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return json_type(arguments[0])
    if origin in UNIONS:
        members = tuple(member for argument in arguments if (member := json_type(argument)) is not None)
        return Union[members] if set(members) - {type(None)} else None  # noqa: UP007 - X | Y takes no tuple
    if origin is Literal:
        return type_
    if origin is Callable or type_ is Callable:
        return None
    if origin is not None:
        parameters = [argument if argument is ... else json_type(argument) for argument in arguments]
        return None if None in parameters else origin[tuple(parameters)]
    if not isinstance(type_, type):
        return Any
    if issubclass(type_, _JSON_CLASSES):
        return type_
    if type_.__module__.startswith("haystack.tools") or type_.__name__ == "Secret":
        return None
    if type_.__module__.startswith("haystack."):
        return type_ if is_haystack_data(type_) else Any
    return type_ if is_dataclass(type_) or hasattr(type_, "model_validate") else Any


def common_type(types_: Iterable[Any]) -> Any | None:
    """Return the strictest of *types_*, which may differ in None and ``Any`` only; else None."""
    specific = [type_ for type_ in types_ if type_ is not Any]
    if not specific:
        return Any
    strict = [type_ for type_ in specific if type(None) not in get_args(type_)]
    first = (strict or specific)[0]
    return first if all(_without_none(type_) == _without_none(first) for type_ in specific) else None


def _without_none(type_: Any) -> frozenset[Any]:
    return frozenset(union_members(type_)) - {type(None)}


def is_messages(type_: Any) -> bool:
    """Whether *type_* is a list of Haystack's chat messages, or a union with one."""
    return any(
        get_origin(member) is list and getattr(get_args(member)[0], "__name__", "") == "ChatMessage"
        for member in union_members(type_)
    )


def type_name(type_: Any) -> str:
    """Format *type_* as in source code: ``list[Document]``."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in UNIONS:
        return " | ".join(map(type_name, arguments))
    if isinstance(type_, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_name, type_))}]"
    if origin is not None and origin is not Literal:
        return f"{type_name(origin)}[{', '.join(map(type_name, arguments))}]"
    if type_ is type(None):
        return "None"
    return type_.__name__ if isinstance(type_, type) else str(type_).removeprefix("typing.")


def union_members(type_: Any) -> tuple[Any, ...]:
    """Return the members of a union, or *type_* alone."""
    return get_args(type_) if get_origin(type_) in UNIONS else (type_,)
