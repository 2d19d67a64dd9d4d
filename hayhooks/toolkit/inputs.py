"""From JSON to what the components of a pipeline take: dicts become ChatMessages, Documents and the like."""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from haystack import Pipeline


def coerce_pipeline_inputs(pipeline: "Pipeline", data: Mapping[str, Any]) -> dict[str, Any]:
    """Make of the dicts in *data* the objects that *pipeline*'s inputs take.

    A dict becomes an object where the input's type is, or is a list or an optional of, one class that can be made of
    it: Haystack's data classes, pydantic models, dataclasses. All else stays as it is.

    Args:
        pipeline: what *data* is for.
        data: as for ``Pipeline.run``, by component and input or by input alone; it is not changed.

    Returns:
        A new dict of the same form.

    Raises:
        ValueError: a dict fits no object of the class, or several classes are possible; the message names the input.
    """
    inputs = pipeline.inputs(include_components_with_connected_inputs=True)
    if _is_by_component(data, inputs):
        return {
            component: {name: _coerced(value, name, _types(inputs, component, name)) for name, value in given.items()}
            for component, given in data.items()
        }
    inputs = pipeline.inputs()
    return {
        name: _coerced(value, name, [type_ for component in inputs for type_ in _types(inputs, component, name)])
        for name, value in data.items()
    }


def build_from_dict(cls: Any, value: dict[str, Any]) -> Any:
    """The Haystack object of *cls* that *value* describes; a ChatMessage in OpenAI's form too.

    Raises:
        ValueError: it describes none.
    """
    try:
        if cls.__name__ == "ChatMessage" and isinstance(value.get("content"), str | None):
            return cls.from_openai_dict_format(value)
        return cls.from_dict(value)
    except Exception as error:  # from_dict raises what it happens upon: KeyError, TypeError, AttributeError ...
        raise ValueError(f"not a {cls.__name__}: {type(error).__name__}: {error}") from error


def _is_by_component(data: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> bool:
    """As ``Pipeline.run`` decides it: dicts for components, unless no name is a component's and all are inputs'."""
    if not all(isinstance(value, dict) for value in data.values()):
        return False
    return any(name in inputs for name in data) or not data.keys() <= {
        name for given in inputs.values() for name in given
    }


def _types(inputs: Mapping[str, Mapping[str, Any]], component: str, name: str) -> list[Any]:
    socket = inputs.get(component, {}).get(name)
    return [] if socket is None else [socket["type"]]


def _coerced(value: Any, name: str, types: list[Any]) -> Any:
    items = value if isinstance(value, list) else [value]
    if not any(isinstance(item, dict) for item in items):
        return value
    makers = [found for type_ in types if (found := dict(_makers(type_)))]
    if not makers:
        return value
    if len(makers[0]) > 1:
        names = ", ".join(sorted(cls.__name__ for cls in makers[0]))
        raise ValueError(f"input {name!r} takes any of {names}, and a dict does not tell which: give an object")
    (make,) = makers[0].values()
    try:
        made = [make(item) if isinstance(item, dict) else item for item in items]
    except ValueError as error:
        raise ValueError(f"input {name!r}: {error}") from error
    return made if isinstance(value, list) else made[0]


def _makers(type_: Any) -> Iterator[tuple[type, Callable[[dict[str, Any]], Any]]]:
    """The classes in *type_* that can be made of a dict, and what makes them."""
    if get_origin(type_) in (Union, types.UnionType, list, Annotated):
        for argument in get_args(type_):
            yield from _makers(argument)
    elif isinstance(type_, type) and hasattr(type_, "from_dict"):
        yield type_, partial(build_from_dict, type_)
    elif isinstance(type_, type) and (is_dataclass(type_) or hasattr(type_, "model_validate")):
        from pydantic import TypeAdapter  # noqa: PLC0415 - the command line imports this

        yield type_, TypeAdapter(type_).validate_python
