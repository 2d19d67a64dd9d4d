"""Convert JSON to the inputs of a pipeline: dicts become ChatMessages, Documents and the like."""

import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from haystack import Pipeline


def coerce_pipeline_inputs(pipeline: "Pipeline", data: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the dicts in *data* to the objects that the inputs of *pipeline* take.

    A dict is converted if the input's type is one class, or a list or an optional of it, that can be built from a
    dict: Haystack's data classes, pydantic models, dataclasses. All other values stay as they are.

    Args:
        pipeline: the pipeline that is to be run with *data*.
        data: as for ``Pipeline.run``, by component and input or by input alone; it is not changed.

    Returns:
        A new dict of the same form.

    Raises:
        ValueError: a dict does not fit the class, or several classes are possible; the message names the input.
    """
    inputs = pipeline.inputs(include_components_with_connected_inputs=True)
    if _is_by_component(data, inputs):
        return {
            component: {name: _coerce(value, name, _types(inputs, component, name)) for name, value in values.items()}
            for component, values in data.items()
        }
    inputs = pipeline.inputs()
    return {
        name: _coerce(value, name, [type_ for component in inputs for type_ in _types(inputs, component, name)])
        for name, value in data.items()
    }


def is_haystack_data(type_: Any) -> bool:
    """Whether *type_* is one of Haystack's data classes, such as Document."""
    return (
        isinstance(type_, type)
        and type_.__module__.startswith("haystack.")
        and hasattr(type_, "from_dict")
        and hasattr(type_, "to_dict")
    )


def build_from_dict(cls: Any, value: dict[str, Any]) -> Any:
    """Build an object of Haystack's *cls* from *value*; a ChatMessage also from OpenAI's form, bytes also from a text.

    Raises:
        ValueError: *value* does not fit.
    """
    try:
        if cls.__name__ == "ChatMessage" and isinstance(value.get("content"), str | None):
            return cls.from_openai_dict_format(value)
        if cls.__name__ == "ByteStream":
            value = _byte_stream(value)
        elif cls.__name__ == "Document" and isinstance(blob := value.get("blob"), dict):
            value = {**value, "blob": _byte_stream(blob)}
        return cls.from_dict(value)
    except Exception as error:  # for a dict that does not fit, from_dict raises any type: KeyError, TypeError ...
        raise ValueError(f"not a {cls.__name__}: {type(error).__name__}: {error}") from error


def _byte_stream(value: dict[str, Any]) -> dict[str, Any]:
    """Check the fields of a ByteStream; its data are a text, or the integers that Haystack writes."""
    data, meta = value.get("data"), value.get("meta") or {}
    if not isinstance(data, str | list | bytes):  # of an integer, bytes() makes so many zeros
        raise TypeError("data must be a text or a list of bytes")
    # Converters decode with it; these two are no character sets, and take minutes for a megabyte.
    if str(meta.get("encoding")).lower() in ("punycode", "idna"):
        raise ValueError(f"the encoding {meta['encoding']!r} is not accepted")
    return {**value, "data": data.encode() if isinstance(data, str) else bytes(data), "meta": meta}


def _is_by_component(data: Mapping[str, Any], inputs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether *data* is by component, as ``Pipeline.run`` decides: dicts only, and names that are not all inputs'."""
    if not all(isinstance(value, dict) for value in data.values()):
        return False
    return any(name in inputs for name in data) or not data.keys() <= {
        name for sockets in inputs.values() for name in sockets
    }


def _types(inputs: Mapping[str, Mapping[str, Any]], component: str, name: str) -> list[Any]:
    socket = inputs.get(component, {}).get(name)
    return [] if socket is None else [socket["type"]]


def _coerce(value: Any, name: str, types: list[Any]) -> Any:
    items = value if isinstance(value, list) else [value]
    if not any(isinstance(item, dict) for item in items):
        return value
    builders = next((found for type_ in types if (found := dict(_builders(type_)))), None)
    if builders is None:
        return value
    if len(builders) > 1:
        names = ", ".join(sorted(cls.__name__ for cls in builders))
        raise ValueError(f"input {name!r}: a dict is ambiguous, the input takes {names}; pass an object")
    (build,) = builders.values()
    try:
        built = [build(item) if isinstance(item, dict) else item for item in items]
    except ValueError as error:
        raise ValueError(f"input {name!r}: {error}") from error
    return built if isinstance(value, list) else built[0]


def _builders(type_: Any) -> Iterator[tuple[type, Callable[[dict[str, Any]], Any]]]:
    if get_origin(type_) in (Union, types.UnionType, list, Annotated):
        for argument in get_args(type_):
            yield from _builders(argument)
    elif isinstance(type_, type) and hasattr(type_, "from_dict"):
        yield type_, partial(build_from_dict, type_)
    elif isinstance(type_, type) and (is_dataclass(type_) or hasattr(type_, "model_validate")):
        from pydantic import TypeAdapter  # noqa: PLC0415 - the command line imports this

        yield type_, TypeAdapter(type_).validate_python
