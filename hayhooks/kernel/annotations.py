"""Annotations of a wrapper's methods: evaluate them, and refuse those that requests cannot fill."""

import ast
import inspect
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema
from typing_extensions import TypedDict


def evaluated_annotations(method: Callable[..., Any], *, strict: bool) -> dict[str, Any]:
    """Return the annotations of *method*; one that is imported for type checkers only is left out: any JSON.

    Others that cannot be evaluated are a TypeError if *strict*, and else left out too.
    """
    try:
        return typing.get_type_hints(method, include_extras=True)
    except Exception:  # evaluating annotations runs user code
        hints: dict[str, Any] = {}
    for_checkers = set(_names_for_type_checkers(method))
    for name, annotation in method.__annotations__.items():
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, getattr(method, "__globals__", {}), include_extras=True)
        except Exception as error:
            if strict and not (isinstance(error, NameError) and error.name in for_checkers):
                which = "of the result" if name == "return" else f"of parameter {name!r}"
                text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
                raise TypeError(
                    f"{method.__name__}(): the annotation {which}, {text}, cannot be resolved: "
                    f"{type(error).__name__}: {error}"
                ) from error
    return hints


def functions_in(annotation: Any) -> Iterator[Callable[..., Any]]:
    """Yield the functions that stand in *annotation* for types, as ``any`` for ``Any``."""
    if inspect.isroutine(annotation):
        yield annotation
    arguments = typing.get_args(annotation)
    for argument in arguments[:1] if typing.get_origin(annotation) is typing.Annotated else arguments:
        yield from functions_in(argument)


def _names_for_type_checkers(method: Callable[..., Any]) -> Iterator[str]:
    """Yield what the module of *method* imports or defines in ``if TYPE_CHECKING``."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[method.__module__]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    for node in (inner for block in blocks for statement in block.body for inner in ast.walk(statement)):
        if isinstance(node, ast.alias):
            yield node.asname or node.name.partition(".")[0]
        elif isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def arguments_adapter(method: str, fields: Mapping[str, Any], *, takes_any: bool) -> TypeAdapter[dict[str, Any]]:
    """Return the type of the keyword arguments *fields* of *method*; TypeError if pydantic cannot read one."""
    # A TypedDict instead of a model: it allows any parameter name ("schema", "copy", "_id"), and validation returns
    # the keyword arguments themselves.
    make: Any = TypedDict  # made at run time, which type checkers cannot follow
    arguments = make("".join(part.capitalize() for part in method.split("_")) + "Request", dict(fields))
    arguments.__pydantic_config__ = ConfigDict(extra="allow" if takes_any else "ignore", arbitrary_types_allowed=True)
    try:
        return TypeAdapter(arguments)
    except Exception as error:
        for name, annotation in fields.items() if len(fields) > 1 else ():  # raises for the one that is to blame
            arguments_adapter(method, {name: annotation}, takes_any=takes_any)
        listed = ", ".join(map(repr, fields))
        message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        raise TypeError(f"{method}(): the annotation of parameter {listed} cannot be used: {message}") from error


def refuse_what_is_not_json(method: str, arguments: TypeAdapter[dict[str, Any]], fields: Mapping[str, Any]) -> None:
    """Raise a TypeError that names the parameter of *method* that no JSON can be, as a ``Pipeline``.

    One that may be None can be null: it is for callers in the process.
    """
    if _is_json(arguments):
        return
    for name, annotation in fields.items():
        adapter = arguments_adapter(method, {name: annotation}, takes_any=False)
        if _is_json(adapter):
            continue
        try:
            adapter.validate_python({name: None})
        except Exception:  # a validator of the user's may raise anything
            raise TypeError(
                f"{method}(): parameter {name!r} cannot be taken from JSON: annotate it with a type that can, "
                "or make it an attribute in setup()"
            ) from None


def _is_json(adapter: TypeAdapter[dict[str, Any]]) -> bool:
    try:
        adapter.json_schema()
    except PydanticInvalidForJsonSchema:  # only an instance of the class is valid
        return False
    except Exception:  # its own method for the schema may raise anything; /docs tell
        return True
    return True
