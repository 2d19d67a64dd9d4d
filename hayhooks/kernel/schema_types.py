"""Schema types: annotations of Haystack's data and uploaded files for pydantic."""

import inspect
import types
import typing
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, NotRequired, Required, Union

from pydantic import ConfigDict, GetPydanticSchema, WithJsonSchema
from pydantic_core import core_schema
from typing_extensions import TypedDict, is_typeddict

from hayhooks.toolkit.inputs import build_from_dict, is_haystack_data

# Haystack's data classes as JSON; pydantic would show their private fields.
_SHAPES: Mapping[str, Mapping[str, Any]] = {
    "ChatMessage": {
        "description": "As Haystack writes it, or in OpenAI's form.",
        "properties": {
            "role": {"type": "string", "enum": ["user", "system", "assistant", "tool"]},
            "content": {
                "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "object"}}],
                "description": "A text, or a list of parts; each is an object with `text`, `image`, `file` or such.",
            },
            "name": {"type": ["string", "null"]},
            "meta": {"type": "object"},
        },
        "required": ["role", "content"],
        "examples": [{"role": "user", "content": "Hello"}, {"role": "user", "content": [{"text": "Hello"}]}],
    },
    "Document": {
        "properties": {
            "id": {"type": "string"},
            "content": {"type": ["string", "null"]},
            "meta": {"type": "object"},
            "score": {"type": ["number", "null"]},
            "embedding": {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
        },
        "examples": [{"content": "Breakfast is at eight.", "meta": {"source": "me"}}],
    },
    "ByteStream": {
        "properties": {
            "data": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 255}},
                ],
                "description": "A text, sent as UTF-8, or a list of bytes.",
            },
            "meta": {"type": "object"},
            "mime_type": {"type": ["string", "null"]},
        },
        "required": ["data"],
        "examples": [{"data": "Breakfast is at eight.", "mime_type": "text/plain"}],
    },
}


class SchemaTypes:
    """Converts annotations for pydantic; *upload* is the class of uploaded files.

    Haystack's data classes are read and written by their ``from_dict`` and ``to_dict``: pydantic alone would ask for a
    ChatMessage's private fields, ``_role`` and ``_content``.
    """

    def __init__(self, upload: type) -> None:
        self._upload = upload

        def check(value: Any) -> Any:
            if isinstance(value, upload):
                return value
            if isinstance(value, list) and all(isinstance(item, upload) for item in value):
                raise ValueError(f"one file is expected, {len(value)} came")
            raise ValueError("a file is expected, in a form of type multipart/form-data")

        schema = core_schema.no_info_plain_validator_function(check)
        self._upload_annotation: Any = Annotated[
            Any,
            GetPydanticSchema(lambda _source, _handler: schema),
            WithJsonSchema({"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}),
        ]

    def convert(self, annotation: Any, within: frozenset[Any] = frozenset()) -> Any:
        """Replace those classes in *annotation*; *within* are the TypedDicts around it."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is None:
            if isinstance(annotation, type) and issubclass(annotation, self._upload):
                return self._upload_annotation
            if is_typeddict(annotation):
                return annotation if annotation in within else self._typed_dict(annotation, within | {annotation})
            # Others have from_dict too: that of a Pipeline, a Tool or a Secret runs or reads what the client names.
            is_data = is_haystack_data(annotation) and annotation.__module__.startswith("haystack.dataclasses")
            if inspect.isroutine(annotation):  # pydantic would take any value too, and warn of its own code
                return Any
            return _by_dict(annotation) if is_data else annotation
        if origin is typing.Literal or not arguments:
            return annotation
        if origin is Annotated:
            return Annotated[(self.convert(arguments[0], within), *arguments[1:])]
        converted = tuple(
            self.convert(argument, within) if not isinstance(argument, list) else argument for argument in arguments
        )
        if converted == arguments:
            return annotation
        return reduce(or_, converted) if origin in (Union, types.UnionType) else origin[converted]

    def items(self, cls: Any, within: frozenset[Any] = frozenset()) -> dict[str, Any]:
        """Return the converted items of the TypedDict *cls*, required or not."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {
            name: (Required if name in cls.__required_keys__ else NotRequired)[self.convert(bare_item(hint), within)]
            for name, hint in hints.items()
        }

    def _typed_dict(self, cls: Any, within: frozenset[Any]) -> Any:
        try:
            hints, converted = typing.get_type_hints(cls, include_extras=True), self.items(cls, within)
        except Exception:  # evaluating annotations runs user code
            return cls
        if all(bare_item(converted[name]) == bare_item(hint) for name, hint in hints.items()):
            return cls
        make: Any = TypedDict  # made at run time, which type checkers cannot follow
        made = make(cls.__name__, converted)
        made.__doc__ = cls.__doc__
        made.__pydantic_config__ = getattr(cls, "__pydantic_config__", ConfigDict(arbitrary_types_allowed=True))
        return made


def bare_item(annotation: Any) -> Any:
    """Return a TypedDict's item without ``Required`` or ``NotRequired`` around it."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) in (Required, NotRequired) else annotation


def haystack_to_dict(value: Any) -> Any:
    """Return a Haystack data object as a dict; a Document's meta stays a field."""
    return value.to_dict(flatten=False) if type(value).__name__ == "Document" else value.to_dict()


def _by_dict(cls: Any) -> Any:
    def parse(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"a {cls.__name__} must be an object")
        return build_from_dict(cls, value)

    schema = core_schema.no_info_plain_validator_function(
        parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: haystack_to_dict(value))
    )
    request = {"type": "object", "title": cls.__name__, **_SHAPES.get(cls.__name__, {})}
    # Haystack does not validate its data: nothing is promised of the values in results.
    result = {"type": "object", "title": cls.__name__, "properties": dict.fromkeys(request.get("properties", ()), True)}
    return Annotated[
        cls,
        GetPydanticSchema(lambda _source, _handler: schema),
        WithJsonSchema(request, mode="validation"),
        WithJsonSchema(result, mode="serialization"),
    ]
