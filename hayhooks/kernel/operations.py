"""Operations: a wrapper's methods, with the types of their arguments and results."""

import inspect
import types
import typing
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, Required, Union, Unpack

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from typing_extensions import is_typeddict

from hayhooks.errors import InvalidInputError, shortened
from hayhooks.kernel.annotations import arguments_adapter, evaluated_annotations, refuse_what_is_not_json
from hayhooks.kernel.schema_types import SchemaTypes, bare_item
from hayhooks.kernel.validation import Validator

_FROM_JSON = frozenset({"run_api", "run_api_async"})  # whose arguments requests send as they are annotated
_STREAMS = (Generator, AsyncGenerator, Iterator, AsyncIterator)

ResultKind = Literal["value", "stream", "events", "response", "anything"]


@dataclass(frozen=True, slots=True)
class TransportTypes:
    """Classes in annotations that the serving layer handles; none of them is JSON."""

    headers: type  # of a parameter `headers` that the server fills
    upload: type  # of a parameter that takes an uploaded file
    results: Mapping[type, ResultKind]  # return types that are sent as they are


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a wrapper that requests can reach."""

    name: str  # the method's
    method: Callable[..., Any]  # bound to the wrapper
    on_loop: bool  # calling it only makes a coroutine or an async generator: no thread is needed
    arguments: TypeAdapter[dict[str, Any]]  # the keyword arguments, typed as annotated
    validator: Validator  # of a JSON object to them
    result: TypeAdapter[Any] | None  # of the return annotation; None without one, or for streams
    returns_text: bool  # annotated `-> str`: a ChatMessage stands for its text
    result_kinds: frozenset[ResultKind]  # what its annotation promises, "anything" without one
    parameters: frozenset[str]  # every keyword that the method takes
    takes_any: bool  # it has **kwargs
    receiver: str  # the parameter that is the wrapper, so that no argument can have this name; "" if any can
    wants_headers: bool  # it has a parameter `headers` of the server's type, which the server fills
    uploads: frozenset[str]  # the parameters that take uploaded files: then the arguments come as a form
    fields: Mapping[str, Validator]  # if they do: one for each parameter that has a type
    summary: str  # the docstring's first line
    description: str  # the rest of it, without the parameters

    def accepted(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of *arguments* that the method takes."""
        return {name: value for name, value in arguments.items() if self.takes_any or name in self.parameters}

    def name_unknown(self, error: InvalidInputError, sent: Iterable[str]) -> None:
        """Say in *error*, where an argument is missing, what was *sent* that is none."""
        unknown = [name for name in sent if name not in self.parameters]
        listed = ", ".join(repr(shortened(name, 50)) for name in unknown[:3])
        is_ours = self.method.__module__.startswith("hayhooks.")  # of a YAML pipeline: nobody has written it
        of = "input of the pipeline" if is_ours else f"argument of {self.name}()"
        for detail in error.details:
            if unknown and detail["type"] == "missing" and len(detail["loc"]) == 2:
                detail["msg"] += f"; you sent {listed}{', ...' if len(unknown) > 3 else ''}, no {of}"


@dataclass(frozen=True, slots=True)
class DurableMethod:
    """The method of a wrapper that executions run."""

    name: str
    method: Callable[..., Any]  # bound to the wrapper; takes a DurableContext and the request
    on_loop: bool  # it is a coroutine function
    kind: Literal["pipeline", "agent"]
    revision: str  # `durable_revision`: executions of another one wait; "": any runs what was ordered
    request: Validator  # of the body
    request_model: type[BaseModel]
    resume: Validator | None  # of the body of a resume; None: any JSON
    resume_model: type[BaseModel] | None
    result: TypeAdapter[Any] | None  # of the return annotation, if that is a model
    concurrency: int | None  # executions at a time in one process; None: as the setting says
    timeout_s: float | None  # of one attempt; 0: no limit; None: as the setting says


def inspect_method(method: Callable[..., Any], transport: TransportTypes) -> Operation:
    """Describe the bound *method*.

    A parameter without annotation takes any JSON, one named ``files`` uploaded files. ``**kwargs`` takes all other
    fields, ``**kwargs: Unpack[...]`` those of a TypedDict. TypeError: ``self`` is missing, no request could
    fill a parameter, or what it is annotated with is not known.
    """
    name = method.__name__
    require_receiver(method)
    takes_json = name in _FROM_JSON
    documentation = docstring_parser.parse(inspect.cleandoc(method.__doc__ or ""))  # not an inherited one
    parameters = _ParameterSet(
        method=name,
        hints=evaluated_annotations(method, strict=takes_json),
        descriptions={parameter.arg_name.lstrip("*"): parameter.description for parameter in documentation.params},
        transport=transport,
        schema_types=SchemaTypes(transport.upload),
    )
    for parameter in inspect.signature(method).parameters.values():
        try:
            parameters.add(parameter)
        except TypeError:
            raise
        except Exception as error:  # no type, but a value
            message = f"{type(error).__name__}: {error}"
            raise TypeError(
                f"{name}(): the annotation of parameter {parameter.name!r} cannot be used: {message}"
            ) from error
    returned = parameters.hints.get("return", Any)
    arguments = arguments_adapter(name, parameters.fields, takes_any=parameters.takes_any)
    if takes_json:
        refuse_what_is_not_json(name, arguments, parameters.fields)
    return Operation(
        name=name,
        method=method,
        on_loop=inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method),
        arguments=arguments,
        validator=Validator(arguments),
        result=_result_adapter(returned, parameters.schema_types, transport),
        returns_text=returned is str,
        result_kinds=_result_kinds(method, returned, transport.results),
        parameters=frozenset(parameters.fields),
        takes_any=parameters.takes_any,
        receiver=_receiver(method),
        wants_headers=parameters.wants_headers,
        uploads=frozenset(parameters.uploads),
        fields=parameters.field_validators() if parameters.uploads else {},
        summary=documentation.short_description or "",
        description=documentation.long_description or "",
    )


@dataclass(slots=True)
class _ParameterSet:
    """The parameters of a method, added one by one."""

    method: str
    hints: dict[str, Any]
    descriptions: Mapping[str, str | None]  # from its docstring
    transport: TransportTypes
    schema_types: SchemaTypes
    fields: dict[str, Any] = field(default_factory=dict)  # items of a TypedDict
    uploads: set[str] = field(default_factory=set)
    takes_any: bool = False
    wants_headers: bool = False

    def add(self, parameter: inspect.Parameter) -> None:
        match parameter.kind:
            case parameter.VAR_KEYWORD:
                keywords = self.hints.get(parameter.name)
                if typing.get_origin(keywords) is not Unpack:
                    self.takes_any = True
                    return
                for item, annotation in self.schema_types.items(typing.get_args(keywords)[0]).items():
                    self.fields[item], self.hints[item] = annotation, bare_item(annotation)
            case parameter.POSITIONAL_ONLY:
                raise TypeError(
                    f"{self.method}(): parameter {parameter.name!r} is positional-only, but requests pass arguments "
                    "by name"
                )
            case parameter.VAR_POSITIONAL:
                pass  # requests pass names
            case _:
                self.add_named(parameter)

    def add_named(self, parameter: inspect.Parameter) -> None:
        name, annotation = parameter.name, self.hints.get(parameter.name, Any)
        if name == "headers" and self.transport.headers in _classes(annotation):
            self.wants_headers = True
            return
        if name == "files" and annotation in (Any, list):
            annotation = list[self.transport.upload]  # type: ignore[name-defined]  # a class known at run time only
        self.hints[name] = annotation
        if any(issubclass(cls, self.transport.upload) for cls in _classes(annotation)):
            self.uploads.add(name)
        # The default stays with the method and is only shown in the schema.
        required = parameter.default is parameter.empty
        extra: dict[str, Any] = {}
        if not required and isinstance(parameter.default, str | int | float | bool | None):
            extra["default"] = parameter.default
        documented = Field(description=self.descriptions.get(name), json_schema_extra=extra or None)
        described: Any = Annotated[self.schema_types.convert(annotation), documented]
        self.fields[name] = Required[described] if required else NotRequired[described]

    def field_validators(self) -> dict[str, Validator]:
        """Return a validator for each field that has a type, to try a form's text with."""
        return {
            name: Validator(arguments_adapter(self.method, {name: annotation}, takes_any=False))
            for name, annotation in self.fields.items()
            if self.hints[name] is not Any
        }


def require_receiver(method: Callable[..., Any]) -> None:
    """Raise TypeError if *method* of a wrapper was written without ``self``: an argument would take its place."""
    function = getattr(method, "__func__", None)
    if function is None:  # a static method, or a function that setup has assigned
        return
    parameters = list(inspect.signature(function).parameters.values())
    setup = getattr(type(getattr(method, "__self__", None)), "setup", None)
    usual = {"self", "this", "cls", "_", next(iter(inspect.signature(setup).parameters), "") if setup else ""}
    for first in parameters[:1]:
        is_plain = first.default is first.empty and first.kind is not first.KEYWORD_ONLY
        if first.kind is first.VAR_POSITIONAL or (is_plain and first.name in usual):
            return
    definition = "async def" if inspect.iscoroutinefunction(function) else "def"
    right = ", ".join(["self", *(parameter.name for parameter in parameters)])
    raise TypeError(f"{function.__name__}() lacks self: write `{definition} {function.__name__}({right})`")


def _receiver(method: Callable[..., Any]) -> str:
    """Return the name of the parameter that *method* is bound to, if an argument of this name would clash."""
    function = getattr(method, "__func__", None)
    first = next(iter(inspect.signature(function).parameters.values()), None) if function is not None else None
    return first.name if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else ""


def _result_adapter(annotation: Any, schema_types: SchemaTypes, transport: TransportTypes) -> TypeAdapter[Any] | None:
    origin = typing.get_origin(annotation) or annotation
    not_json = (transport.headers, transport.upload, *transport.results)
    if annotation in (Any, None, type(None)) or origin in _STREAMS:
        return None
    if any(issubclass(cls, not_json) for cls in _classes(annotation)):
        return None
    # Types that can have a configuration of their own refuse another.
    configurable = (
        is_typeddict(annotation) or hasattr(annotation, "model_config") or hasattr(annotation, "__dataclass_fields__")
    )
    try:
        config = None if configurable else ConfigDict(ser_json_bytes="utf8")
        return TypeAdapter(schema_types.convert(annotation), config=config)
    except Exception:  # an annotation that pydantic cannot use documents nothing, but must not stop a wrapper
        return None


def _result_kinds(
    method: Callable[..., Any], annotation: Any, special: Mapping[type, ResultKind]
) -> frozenset[ResultKind]:
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        return frozenset({"stream"})
    origin = typing.get_origin(annotation) or annotation
    if origin in (Union, types.UnionType):
        options = typing.get_args(annotation)
        return frozenset().union(*(_result_kinds(method, option, special) for option in options))
    if origin is Annotated:
        return _result_kinds(method, typing.get_args(annotation)[0], special)
    if origin in _STREAMS:
        return frozenset({"stream"})
    if annotation is Any or annotation is object:
        return frozenset({"anything"})
    bases = origin.__mro__ if isinstance(origin, type) else ()
    return frozenset({next((special[base] for base in bases if base in special), "value")})


def _classes(annotation: Any) -> set[type]:
    found = {annotation} if isinstance(annotation, type) else set()
    return found.union(*(_classes(argument) for argument in typing.get_args(annotation)))
