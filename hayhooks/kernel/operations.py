"""Describe a wrapper's method: what it takes, what it gives, and how to read and write that as JSON."""

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, NotRequired, Required, Union, Unpack

import docstring_parser
from pydantic import ConfigDict, Field, GetPydanticSchema, PydanticSchemaGenerationError, TypeAdapter, WithJsonSchema
from pydantic_core import core_schema
from typing_extensions import TypedDict, is_typeddict

from hayhooks.toolkit.inputs import build_from_dict

_STREAMS = (Generator, AsyncGenerator, Iterator, AsyncIterator)
_ITEM_KINDS = (Required, NotRequired)

ResultKind = Literal["value", "stream", "events", "response", "anything"]

# How Haystack's data classes look as JSON, where pydantic would show their private fields.
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
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a wrapper that requests can reach."""

    name: str  # the method's
    method: Callable[..., Any]  # bound to the wrapper
    on_loop: bool  # calling it only makes a coroutine or an async generator: no thread is needed
    arguments: TypeAdapter[dict[str, Any]]  # validates a JSON object to the keyword arguments, typed as annotated
    result: TypeAdapter[Any] | None  # of the return annotation; None without one, or for streams
    returns_text: bool  # annotated `-> str`: a ChatMessage stands for its text
    result_kinds: frozenset[ResultKind]  # what its annotation promises, "anything" without one
    parameters: frozenset[str]  # every keyword that the method takes
    takes_any: bool  # it has **kwargs
    wants_headers: bool  # it has a parameter `headers` of Starlette's type, which the server fills
    uploads: frozenset[str]  # the parameters that take uploaded files: then the arguments come as a form
    fields: Mapping[str, TypeAdapter[dict[str, Any]]]  # where they do: one for each parameter that has a type
    summary: str  # the docstring's first line
    description: str  # the rest of it, without the parameters

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of *arguments* that the method takes."""
        return {name: value for name, value in arguments.items() if self.takes_any or name in self.parameters}


def inspect_method(method: Callable[..., Any]) -> Operation:
    """Describe the bound *method*.

    A parameter without annotation takes any JSON, ``**kwargs`` takes the fields that are left; annotated with
    ``Unpack[...]`` of a TypedDict it takes that one's fields, which may be called what no parameter can be. A parameter
    named ``headers`` of Starlette's type is left out of the arguments. One of Starlette's ``UploadFile``, a list of
    them, or one named ``files`` without a type, takes files.

    Raises:
        TypeError: a parameter is of a type that no JSON can become, or cannot be given by name.
    """
    signature = inspect.signature(method)
    documentation = docstring_parser.parse(inspect.cleandoc(method.__doc__ or ""))  # no inherited one
    texts = {parameter.arg_name.lstrip("*"): parameter.description for parameter in documentation.params}
    taken = _Taken(method.__name__, _type_hints(method, signature), texts)
    for name, parameter in signature.parameters.items():
        taken.add(name, parameter)
    returned = taken.hints.get("return", Any)
    return Operation(
        name=method.__name__,
        method=method,
        on_loop=inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method),
        arguments=_arguments_adapter(method.__name__, taken.fields, taken.takes_any),
        result=_result_adapter(returned),
        returns_text=returned is str,
        result_kinds=_result_kinds(method, returned),
        parameters=frozenset(taken.fields),
        takes_any=taken.takes_any,
        wants_headers=taken.wants_headers,
        uploads=frozenset(taken.uploads),
        fields=_field_adapters(method.__name__, taken.fields, taken.hints) if taken.uploads else {},
        summary=documentation.short_description or "",
        description=documentation.long_description or "",
    )


@dataclass(slots=True)
class _Taken:
    """What a method takes, gathered from its parameters one by one."""

    method: str
    hints: dict[str, Any]
    texts: Mapping[str, str | None]  # what its docstring says of parameters
    fields: dict[str, Any] = field(default_factory=dict)  # items of a TypedDict
    uploads: set[str] = field(default_factory=set)
    takes_any: bool = False
    wants_headers: bool = False

    def add(self, name: str, parameter: inspect.Parameter) -> None:
        match parameter.kind:
            case parameter.VAR_KEYWORD:
                self._add_keywords(name)
            case parameter.POSITIONAL_ONLY:
                raise TypeError(f"{self.method}(): {name!r} can only be given by position, but requests give names")
            case parameter.VAR_POSITIONAL:
                pass  # requests give names
            case _:
                self._add_one(name, parameter)

    def _add_keywords(self, name: str) -> None:
        if typing.get_origin(self.hints.get(name)) is not Unpack:
            self.takes_any = True
            return
        for item, annotation in _items(typing.get_args(self.hints[name])[0]).items():
            self.fields[item], self.hints[item] = annotation, _bare(annotation)

    def _add_one(self, name: str, parameter: inspect.Parameter) -> None:
        annotation = self.hints.get(name, Any)
        if name == "headers" and "starlette.datastructures.Headers" in _names(annotation):
            self.wants_headers = True
            return
        if name == "files" and annotation in (Any, list):
            annotation = list[_UPLOAD]  # type: ignore[valid-type]
        self.fields[name], self.hints[name] = _field(annotation, parameter, self.texts.get(name)), annotation
        if _takes_upload(annotation):
            self.uploads.add(name)


def _type_hints(method: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """The annotations, evaluated; one that cannot be (imported for type checkers only) means any JSON."""
    try:
        return typing.get_type_hints(method, include_extras=True)
    except Exception:  # evaluating annotations runs user code
        hints: dict[str, Any] = {}
        namespace = getattr(method, "__globals__", {})
        for name, annotation in method.__annotations__.items():
            try:
                hints[name] = eval(annotation, namespace) if isinstance(annotation, str) else annotation  # noqa: S307 - as get_type_hints does
            except Exception:  # noqa: S112 - see the docstring
                continue
        return hints


def _field(annotation: Any, parameter: inspect.Parameter, text: str | None) -> Any:
    """The item of a TypedDict for one parameter; its default stays with the method and is shown in the schema."""
    extra: dict[str, Any] = {}
    if parameter.default is not parameter.empty and isinstance(parameter.default, str | int | float | bool | None):
        extra["default"] = parameter.default
    described: Any = Annotated[_haystack_aware(annotation), Field(description=text, json_schema_extra=extra or None)]
    return Required[described] if parameter.default is parameter.empty else NotRequired[described]


def _arguments_adapter(name: str, fields: dict[str, Any], takes_any: bool) -> TypeAdapter[dict[str, Any]]:
    # A TypedDict and not a model: any parameter name is allowed in it ("schema", "copy", "_id"), and what
    # validation returns are the keyword arguments themselves.
    make: Any = TypedDict  # made at run time, which type checkers cannot follow
    arguments = make(_camel(name) + "Request", fields)
    arguments.__pydantic_config__ = ConfigDict(extra="allow" if takes_any else "ignore", arbitrary_types_allowed=True)
    try:
        return TypeAdapter(arguments)
    except PydanticSchemaGenerationError as error:
        raise TypeError(f"{name}(): {error.message}") from error


def _field_adapters(
    name: str, fields: Mapping[str, Any], hints: Mapping[str, Any]
) -> dict[str, TypeAdapter[dict[str, Any]]]:
    """An adapter for each of *fields* alone, so that a form's text can be tried; none where anything is accepted."""
    return {
        field: _arguments_adapter(name, {field: annotation}, takes_any=False)
        for field, annotation in fields.items()
        if hints[field] is not Any
    }


def _result_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    origin = typing.get_origin(annotation) or annotation
    if annotation in (Any, None, type(None)) or origin in _STREAMS or "starlette." in " ".join(_names(annotation)):
        return None
    try:
        return TypeAdapter(_haystack_aware(annotation), config=_result_config(annotation))
    except Exception:  # an annotation that pydantic cannot use documents nothing, but must not stop a wrapper
        return None


def _result_kinds(method: Callable[..., Any], annotation: Any) -> frozenset[ResultKind]:
    """The kinds of answers that a method with the return *annotation* can give."""
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        return frozenset({"stream"})
    origin = typing.get_origin(annotation) or annotation
    if origin in (Union, types.UnionType):
        return frozenset().union(*(_result_kinds(method, option) for option in typing.get_args(annotation)))
    if origin is Annotated:
        return _result_kinds(method, typing.get_args(annotation)[0])
    if origin in _STREAMS:
        return frozenset({"stream"})
    if annotation is Any or annotation is object:
        return frozenset({"anything"})
    bases = {_full_name(base) for base in origin.__mro__} if isinstance(origin, type) else set()
    if "starlette.responses.Response" in bases:
        return frozenset({"response"})
    return frozenset({"events" if "hayhooks.http.responses.SSEStream" in bases else "value"})


def _result_config(annotation: Any) -> ConfigDict | None:
    # Types that can have a configuration of their own refuse another.
    has_its_own = is_typeddict(annotation) or hasattr(annotation, "model_config")
    return None if has_its_own or hasattr(annotation, "__dataclass_fields__") else ConfigDict(ser_json_bytes="utf8")


def _haystack_aware(annotation: Any, within: frozenset[Any] = frozenset()) -> Any:
    """Have Haystack's data classes read and written by their ``from_dict`` and ``to_dict``, however nested.

    Pydantic alone would ask for a ChatMessage's private fields, ``_role`` and ``_content``. *within* are the TypedDicts
    around it, which may hold themselves.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        if is_upload(annotation):
            return _UPLOAD
        if is_typeddict(annotation):
            return annotation if annotation in within else _aware_typed_dict(annotation, within | {annotation})
        return _by_dict(annotation) if is_haystack_data(annotation) else annotation
    if origin is typing.Literal or not arguments:
        return annotation
    if origin is Annotated:
        return Annotated[(_haystack_aware(arguments[0], within), *arguments[1:])]
    aware = tuple(
        _haystack_aware(argument, within) if not isinstance(argument, list) else argument for argument in arguments
    )
    if aware == arguments:
        return annotation
    return reduce(or_, aware) if origin in (Union, types.UnionType) else origin[aware]


def _aware_typed_dict(cls: Any, within: frozenset[Any]) -> Any:
    """The TypedDict *cls* with such items; itself if it has none of Haystack's classes, or cannot be evaluated."""
    try:
        items, aware = typing.get_type_hints(cls, include_extras=True), _items(cls, within)
    except Exception:  # evaluating annotations runs user code
        return cls
    if all(_bare(aware[name]) == _bare(item) for name, item in items.items()):
        return cls
    make: Any = TypedDict
    made = make(cls.__name__, aware)
    made.__doc__ = cls.__doc__
    made.__pydantic_config__ = getattr(cls, "__pydantic_config__", ConfigDict(arbitrary_types_allowed=True))
    return made


def _items(cls: Any, within: frozenset[Any] = frozenset()) -> dict[str, Any]:
    """The items of the TypedDict *cls*, aware of Haystack's classes, and each told to be required or not."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        name: (Required if name in cls.__required_keys__ else NotRequired)[_haystack_aware(_bare(hint), within)]
        for name, hint in hints.items()
    }


def _bare(annotation: Any) -> Any:
    """The item of a TypedDict without ``Required`` or ``NotRequired`` around it."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) in _ITEM_KINDS else annotation


def is_haystack_data(cls: Any) -> bool:
    """Whether *cls* is one of Haystack's data classes: Document, ChatMessage, Answer and so on."""
    return (
        isinstance(cls, type)
        and cls.__module__.startswith("haystack.")
        and hasattr(cls, "from_dict")
        and hasattr(cls, "to_dict")
    )


def is_upload(cls: Any) -> bool:
    """Whether *cls* is Starlette's ``UploadFile`` or derives from it, as FastAPI's does."""
    return isinstance(cls, type) and any(
        _full_name(base) == "starlette.datastructures.UploadFile" for base in cls.__mro__
    )


def _takes_upload(annotation: Any) -> bool:
    arguments = typing.get_args(annotation)
    return annotation is _UPLOAD or is_upload(annotation) or any(_takes_upload(argument) for argument in arguments)


def _an_upload() -> Any:
    """What stands for ``UploadFile`` in a request model: whatever class was written, what comes is Starlette's."""

    def check(value: Any) -> Any:
        if not is_upload(type(value)):
            raise ValueError("a file is expected, in a form of type multipart/form-data")
        return value

    schema = core_schema.no_info_plain_validator_function(check)
    json_schema = WithJsonSchema({"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"})
    return Annotated[Any, GetPydanticSchema(lambda _source, _handler: schema), json_schema]


def _by_dict(cls: Any) -> Any:
    def parse(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"a {cls.__name__} is given as an object")
        return build_from_dict(cls, value)

    schema = core_schema.no_info_plain_validator_function(
        parse, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: to_plain(value))
    )
    taken = {"type": "object", "title": cls.__name__, **_SHAPES.get(cls.__name__, {})}
    # Haystack does not check what it is given: nothing is promised of what it gives.
    given = {"type": "object", "title": cls.__name__, "properties": dict.fromkeys(taken.get("properties", ()), True)}
    return Annotated[
        cls,
        GetPydanticSchema(lambda _source, _handler: schema),
        WithJsonSchema(taken, mode="validation"),
        WithJsonSchema(given, mode="serialization"),
    ]


def to_plain(value: Any) -> Any:
    """A Haystack data object as a dict; a Document's meta stays a field of its own."""
    return value.to_dict(flatten=False) if type(value).__name__ == "Document" else value.to_dict()


def _names(annotation: Any) -> set[str]:
    """The full names of all classes in *annotation*."""
    names = {_full_name(annotation)} if isinstance(annotation, type) else set()
    for argument in typing.get_args(annotation):
        names |= _names(argument)
    return names


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


_UPLOAD = _an_upload()
