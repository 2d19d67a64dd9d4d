"""The types of a pipeline's sockets: what JSON can be of them, and what one value for several of them must be."""

import types
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

_PLAIN = (
    str, int, float, bytes, list, dict, tuple, set, frozenset, type(None),
    Enum, date, time, timedelta, Decimal, Path, UUID,
)  # fmt: skip


def as_json(type_: Any) -> Any | None:
    """*type_* without what no request may give: callbacks, tools and secrets; None if nothing is left of it.

    A class that cannot be made of JSON by itself becomes ``Any``: its component may make something of it.
    """
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return as_json(arguments[0])
    if origin in (Union, types.UnionType):
        left = tuple(part for argument in arguments if (part := as_json(argument)) is not None)
        return Union[left] if set(left) - {type(None)} else None  # noqa: UP007 - of a tuple
    if origin is Literal:
        return type_
    if origin is Callable or type_ is Callable:
        return None
    if origin is not None:
        parts = [argument if argument is ... else as_json(argument) for argument in arguments]
        return None if None in parts else origin[tuple(parts)]
    return _class_as_json(type_) if isinstance(type_, type) else Any


def _class_as_json(cls: Any) -> Any | None:
    if cls is Any or issubclass(cls, _PLAIN):
        return cls
    if cls.__module__.startswith("haystack.tools") or cls.__name__ == "Secret":
        return None
    if cls.__module__.startswith("haystack."):
        return cls if hasattr(cls, "from_dict") and hasattr(cls, "to_dict") else Any
    return cls if is_dataclass(cls) or hasattr(cls, "model_validate") else Any


def common(types_: Iterable[Any]) -> Any | None:
    """The type of one value that goes to sockets of all *types_*; None if they do not agree.

    ``Any`` agrees with each, and ``str | None`` with ``str``, which is what both take.
    """
    given = [type_ for type_ in types_ if type_ is not Any]
    if not given:
        return Any
    strict = [type_ for type_ in given if type(None) not in get_args(type_)]
    first = (strict or given)[0]
    return first if all(_without_none(type_) == _without_none(first) for type_ in given) else None


def _without_none(type_: Any) -> frozenset[Any]:
    parts = get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)
    return frozenset(part for part in parts if part is not type(None))


def type_name(type_: Any) -> str:
    """*type_* as people write it: ``list[Document]``."""
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if isinstance(type_, list):  # the parameters of a Callable
        return f"[{', '.join(map(type_name, type_))}]"
    if origin is not None and origin is not Literal:
        return f"{type_name(origin)}[{', '.join(map(type_name, arguments))}]"
    if type_ is type(None):
        return "None"
    return type_.__name__ if isinstance(type_, type) else str(type_).removeprefix("typing.")


def parts(type_: Any) -> tuple[Any, ...]:
    """The alternatives in *type_*; itself if there is one only."""
    return get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)
