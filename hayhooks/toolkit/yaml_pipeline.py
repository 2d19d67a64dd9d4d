"""Build a pipeline from YAML, and describe its inputs and outputs by the names in the YAML."""

import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, Required, Union

from pydantic import Field
from typing_extensions import TypedDict

from hayhooks.errors import LoadError, closest, safe_str
from hayhooks.toolkit import yaml_types
from hayhooks.toolkit.target import stream_target
from hayhooks.toolkit.yaml_source import YamlSource, suggestion
from hayhooks.toolkit.yaml_unnamed import UnnamedSockets

if TYPE_CHECKING:
    from haystack import Pipeline

Sockets = Mapping[str, Mapping[str, Any]]  # by component and name, as Pipeline.inputs() returns them
KeyPath = tuple[str, Any]  # of a key in the YAML: section and name
Ends = Sequence[tuple[str, str]]  # component and socket of each
Direction = Literal["input", "output"]

_ALLOWLIST = "HAYSTACK_DESERIALIZATION_ALLOWLIST"
_PIPELINE_KEYS = ("metadata", "max_runs_per_component", "connection_type_validation")
_SERVER_ONLY = ("streaming_callback", "tools")  # sockets that requests cannot set


@dataclass(frozen=True, slots=True)
class Input:
    """One entry of the ``inputs`` section."""

    targets: tuple[tuple[str, str], ...]  # component and socket of each receiver
    type: Any
    required: bool
    default: Any = ...  # the component's default; "..." if it has none


@dataclass(frozen=True, slots=True)
class Interface:
    """The named inputs and outputs of a YAML pipeline."""

    inputs: Mapping[str, Input]
    components: Mapping[str, Mapping[str, Input]] | None  # only for YAML without inputs and outputs
    outputs: Mapping[str, Mapping[str, Any]]  # types of the response, by component and socket
    description: str
    flat: Mapping[str, Ends] | None  # outputs by the names that they have in the answer; None: by component and socket
    chat: str = ""  # the input that takes a conversation; "" if none does
    chat_takes_messages: bool = False  # the whole conversation; else the last user message's text
    streaming_components: Any = None  # the argument of streaming_generator

    @classmethod
    def of(cls, pipeline: "Pipeline", source: YamlSource) -> "Interface":
        """Validate the sections of *source* against the sockets of *pipeline*."""
        sockets, description, chat = _Sockets(pipeline, source), source.section("description"), source.section("chat")
        if source.data.get("inputs") is None and source.data.get("outputs") is None:
            if chat:
                raise source.error(f"chat names the input {chat!r}, but the section inputs is missing", "chat")
            sockets.flat_outputs()
            return cls({}, sockets.inputs_by_component(), sockets.unconnected_outputs(), description, None)
        inputs = {name: sockets.input(name, targets) for name, targets in source.section("inputs").items()}
        sockets.check_required(inputs)
        outputs = sockets.outputs(source.section("outputs")) or sockets.unconnected_outputs()
        streaming = source.data.get("streaming_components")
        takes_messages = bool(chat) and _takes_messages(source, chat, inputs)
        if chat or streaming is not None:
            key = "chat" if streaming is None else "streaming_components"
            if not (streaming in (None, "all") or (isinstance(streaming, list) and streaming)):
                raise source.error(f"{key} must be 'all' or a list of component names, not {streaming!r}", key)
            try:
                stream_target(pipeline, {}, None, streaming)
            except ValueError as error:
                raise source.error(f"{key}: {error}", key) from None
        return cls(inputs, None, outputs, description, sockets.flat_outputs(), chat, takes_messages, streaming)

    def data(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Convert *values* by input name to the pipeline's arguments by component and socket."""
        if self.components is not None:
            return {name: dict(sockets) for name, sockets in values.items()}
        data: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            for component, socket in self.inputs[name].targets:
                data.setdefault(component, {})[socket] = value
        return data

    def answer(self, result: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Select the declared outputs from a pipeline's *result*; skip those of branches that did not run."""
        if self.flat is not None:
            return {
                name: self._plain(result[component][socket], component, socket)
                for name, ends in self.flat.items()
                for component, socket in reversed(ends)  # the first one that ran is kept
                if socket in result.get(component, ())
            }
        return {
            component: {socket: values[socket] for socket in sockets if socket in values}
            for component, sockets in self.outputs.items()
            if (values := result.get(component)) is not None
        }

    def request(self) -> Any:
        """Return a TypedDict for the request body of ``/run``."""
        if self.components is None:
            return _inputs_type("Inputs", self.inputs)
        by_component = {
            name: Input((), _inputs_type(f"{name}Inputs", sockets), any(socket.required for socket in sockets.values()))
            for name, sockets in self.components.items()
        }
        return _inputs_type("Inputs", by_component)

    def response(self) -> Any:
        """Return a TypedDict for the result of ``/run``."""
        if self.flat is not None:
            types: dict[str, Any] = {}
            for name, ends in self.flat.items():
                outputs = [self.outputs[component][socket] for component, socket in ends]
                each = tuple(str | None if yaml_types.is_messages(type_) else type_ for type_ in outputs)
                types[name] = Union[each]  # noqa: UP007 - X | Y takes no tuple
            return _outputs_type("Outputs", types)
        by_component = {name: _outputs_type(f"{name}Outputs", sockets) for name, sockets in self.outputs.items()}
        return _outputs_type("Outputs", by_component)

    def _plain(self, value: Any, component: str, socket: str) -> Any:
        if yaml_types.is_messages(self.outputs[component][socket]):
            return value[-1].text if value else None
        return value


def build(source: YamlSource, allowed_modules: Sequence[str] = ()) -> "Pipeline":
    """Build one component and connection at a time, so that a LoadError names the failing one.

    Haystack's components and those of *allowed_modules* are trusted.
    """
    from haystack import Pipeline  # noqa: PLC0415 - it takes a second to import, and the command line imports this

    pipeline: Pipeline = Pipeline.from_dict({key: source.data[key] for key in _PIPELINE_KEYS if key in source.data})
    for name, data in source.section("components").items():
        try:
            part = Pipeline.from_dict({"components": {name: data}}, allowed_modules=list(allowed_modules))
            component: Any = part.remove_component(name)
            component.__hayhooks_place__ = source.place_of("components", name)  # for its errors
            pipeline.add_component(name, component)
        # A component's constructor, or the import of its module, may raise anything.
        except Exception as error:
            raise _component_error(source, name, error) from error
    inputs, outputs = _all_sockets(pipeline, "input"), _all_sockets(pipeline, "output")
    for index, connection in enumerate(source.section("connections")):
        sender, receiver = connection["sender"], connection["receiver"]
        if problem := _end_problem(sender, outputs, "output"):
            raise source.error(problem, "connections", index, "sender")
        if problem := _end_problem(receiver, inputs, "input"):
            raise source.error(problem, "connections", index, "receiver")
        try:
            pipeline.connect(sender, receiver)
        except Exception as error:  # Haystack has several unrelated classes for these errors
            raise source.error(" ".join(safe_str(error).split()), "connections", index) from error
    return pipeline


def _all_sockets(pipeline: "Pipeline", direction: Direction) -> Sockets:
    if direction == "input":
        sockets = pipeline.inputs(include_components_with_connected_inputs=True)
    else:
        sockets = pipeline.outputs(include_components_with_connected_outputs=True)
    return {name: sockets.get(name, {}) for name in pipeline.graph.nodes}


def _end_problem(end: str, sockets: Sockets, direction: Direction) -> str:
    """Describe why *end*, as ``component`` or ``component.socket``, is not one of *sockets*; "" if it is."""
    component, dot, socket = end.partition(".")
    if component not in sockets:
        return f"{end!r}: there is no component {component!r}; {suggestion(component, sockets)}"
    if not dot or socket in sockets[component]:
        return ""
    known = sockets[component]
    return f"{end!r}: component {component!r} has no {direction} {socket!r}; {suggestion(socket, known)}"


def _component_error(source: YamlSource, name: str, error: Exception) -> LoadError:
    """Locate an *error* of building the component *name*, and say how to fix it."""
    from haystack import component as decorator  # noqa: PLC0415 - as above

    component, cause = source.data["components"][name], error.__cause__ or error
    type_, subject, path = component["type"], f"component {name!r}", ("components", name)
    message = " ".join(safe_str(cause).split())
    if message.startswith("Refusing to deserialize a class"):
        refused = source.error(f"{subject} has the type {type_}, whose module is not trusted", *path, "type")
        refused.hint = f"put the module on HAYHOOKS_ADDITIONAL_PYTHON_PATH, or add it to {_ALLOWLIST}"
        return refused
    if message.startswith("Successfully imported module"):
        module, _, class_name = type_.rpartition(".")
        cls = getattr(sys.modules.get(module), class_name, None)
        defined_in = f"{cls.__module__}.{cls.__name__}" if isinstance(cls, type) else ""
        public = [path for path in decorator.registry if not path.startswith("_")]
        close = defined_in if defined_in in decorator.registry else closest(type_, public)
        hint = f"; did you mean {close}?" if close else ""
        return source.error(f"{subject}: there is no component {type_}{hint}", *path, "type")
    if isinstance(cause, ModuleNotFoundError) and type_.startswith(f"{cause.name}."):
        return source.error(f"{subject}: there is no component {type_}: {message}", *path, "type")
    jinja = next((each for each in (cause, cause.__cause__) if type(each).__module__.startswith("jinja2.")), None)
    if jinja is not None:
        number = source.line_with(_lines_of_templates(component, jinja), *path)
        told = f"{type(jinja).__name__}: {getattr(jinja, 'message', jinja)}".removesuffix(".")
        return source.error_at(number, f"{subject} ({type_.rpartition('.')[2]}): {told}")
    parameters = component.get("init_parameters") or ()
    mentioned = [key for key in parameters if f"'{key}'" in message]
    where = (*path, "init_parameters", mentioned[0]) if mentioned else path
    located = source.error(f"{subject} ({type_.rpartition('.')[2]}): {type(cause).__name__}: {message}", *where)
    if mentioned and "unexpected keyword argument" in message and (cls := decorator.registry.get(type_)):
        close = closest(mentioned[0], inspect.signature(cls).parameters)
        located.hint = f"did you mean {close!r}?" if close else ""
    return located


def _lines_of_templates(value: Any, error: Any) -> list[str]:
    """Return the line of *error*, of Jinja's, in its template, else in each text in *value* that is long enough."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [line for part in parts for line in _lines_of_templates(part, error)]
    texts = [text for text in (getattr(error, "source", None) or value,) if isinstance(text, str)]
    return [line for text in texts for line in text.splitlines()[error.lineno - 1 : error.lineno] if "{" in line]


class _Sockets:
    """Resolves the names in a YAML's sections to the sockets of its pipeline."""

    def __init__(self, pipeline: "Pipeline", source: YamlSource) -> None:
        self._pipeline = pipeline
        self._source = source
        self._inputs = _all_sockets(pipeline, "input")
        self._unconnected_inputs: Sockets = pipeline.inputs()
        self._outputs = _all_sockets(pipeline, "output")
        self._unconnected_outputs: Sockets = pipeline.outputs()

    def input(self, name: Any, targets: Any) -> Input:
        """Resolve the input *name*, whose value goes to each of *targets*."""
        path = ("inputs", name)
        if not isinstance(name, str):
            raise self._source.error(f"the input name {name!r} must be a string: put it in quotes", *path)
        ends = self._resolve(path, targets, self._inputs, "input")
        request_types = []
        for component, socket in ends:
            type_ = self._inputs[component][socket]["type"]
            if socket not in self._unconnected_inputs.get(component, {}):
                reason = "which a connection already feeds: remove the input or the connection"
                raise self._source.error(f"inputs.{name} names {component}.{socket}, {reason}", *path)
            request_type = None if socket == "tools" else yaml_types.json_type(type_)
            if request_type is None:
                reason = f"of type {yaml_types.type_name(type_)}, which a request cannot send"
                raise self._source.error(f"inputs.{name} names {component}.{socket} {reason}", *path)
            request_types.append(request_type)
        type_ = yaml_types.common_type(request_types)
        if type_ is None:
            types = " and ".join(
                f"{component}.{socket} ({yaml_types.type_name(self._inputs[component][socket]['type'])})"
                for component, socket in ends
            )
            raise self._source.error(f"inputs.{name} goes to {types}, which have no type in common", *path)
        sockets = [self._unconnected_inputs[component][socket] for component, socket in ends]
        required = any(socket["is_mandatory"] for socket in sockets)
        return Input(tuple(ends), type_, required, sockets[0].get("default_value", ...))

    def outputs(self, entries: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
        """Return the types of the outputs that the section's *entries* name."""
        outputs: dict[str, dict[str, Any]] = {}
        for name, targets in entries.items():
            for component, socket in self._resolve(("outputs", name), targets, self._outputs, "output"):
                outputs.setdefault(component, {})[socket] = self._outputs[component][socket]["type"]
        return outputs

    def flat_outputs(self) -> dict[str, Ends] | None:
        """Return the ends of each output, by its name; None unless the YAML asks for flat answers."""
        answers = self._source.section("answers")
        if not answers:
            return None
        if answers != "flat":
            message = f"answers must be 'flat', not {answers!r}; without it they are keyed by component and socket"
            raise self._source.error(message, "answers")
        entries = self._source.section("outputs")
        if not entries:
            raise self._source.error("answers: flat needs the section outputs, whose names are the keys", "answers")
        for name in entries:
            if not isinstance(name, str):
                message = f"answers: flat: the output name {name!r} must be a string: put it in quotes"
                raise self._source.error(message, "outputs", name)
        return {name: self._resolve(("outputs", name), ends, self._outputs, "output") for name, ends in entries.items()}

    def unconnected_outputs(self) -> dict[str, dict[str, Any]]:
        """Return the types of all outputs without a connection: the result of ``Pipeline.run``."""
        return {
            component: {name: socket["type"] for name, socket in sockets.items()}
            for component, sockets in self._unconnected_outputs.items()
        }

    def inputs_by_component(self) -> dict[str, dict[str, Input]]:
        """Return every input that a request can set, by component and socket."""
        unnamed = UnnamedSockets(self._pipeline)
        inputs: dict[str, dict[str, Input]] = {}
        for component, sockets in self._unconnected_inputs.items():
            for name, socket in sockets.items():
                type_ = unnamed.request_type(component, name, socket["type"])
                if name in _SERVER_ONLY or (type_ is None and not socket["is_mandatory"]):
                    continue
                required, default = socket["is_mandatory"], socket.get("default_value", ...)
                inputs.setdefault(component, {})[name] = Input(((component, name),), type_ or Any, required, default)
        return inputs

    def check_required(self, inputs: Mapping[str, Input]) -> None:
        """Check that every mandatory socket has an input or a connection."""
        targets = {target for each in inputs.values() for target in each.targets}
        for component, sockets in self._unconnected_inputs.items():
            for name, socket in sockets.items():
                if socket["is_mandatory"] and (component, name) not in targets:
                    message = (
                        f"component {component!r} requires {name!r}, which has no source: "
                        f"add {component}.{name} to inputs, or connect it"
                    )
                    line = self._source.line_of_variable(name, "components", component)
                    raise self._source.error_at(line, message)

    def _resolve(self, path: KeyPath, targets: Any, sockets: Sockets, direction: Direction) -> list[tuple[str, str]]:
        subject = f"{path[0]}.{path[1]}"
        targets = targets if isinstance(targets, list) else [targets]
        if not targets:
            raise self._source.error(f"{subject} is empty: expected component.socket", *path)
        ends = []
        for target in targets:
            if not isinstance(target, str) or "." not in target:
                raise self._source.error(f"{subject} must be component.socket or a list of them, not {target!r}", *path)
            if problem := _end_problem(target, sockets, direction):
                raise self._source.error(f"{subject} names {problem}", *path)
            component, _, socket = target.partition(".")
            ends.append((component, socket))
        return ends


def _takes_messages(source: YamlSource, chat: str, inputs: Mapping[str, Input]) -> bool:
    """Return whether the input *chat* takes the whole conversation; else it takes the last user message's text."""
    if chat not in inputs:
        message = f"chat names the input {chat!r}, which is not in inputs; {suggestion(chat, inputs)}"
        raise source.error(message, "chat")
    for name, other in inputs.items():
        if other.required and name != chat:
            message = f"chat: the input {name!r} is required, but a conversation provides only {chat!r}"
            raise source.error(message, "chat")
    if yaml_types.is_messages(inputs[chat].type):
        return True
    types = yaml_types.union_members(inputs[chat].type)
    if str in types or Any in types:
        return False
    name = yaml_types.type_name(inputs[chat].type)
    raise source.error(f"chat: the input {chat!r} takes {name}, expected str or list[ChatMessage]", "chat")


def _inputs_type(name: str, inputs: Mapping[str, Input]) -> Any:
    items: dict[str, Any] = {}
    for key, given in inputs.items():
        if given.required:
            items[key] = Required[given.type]
        else:
            has_json_default = isinstance(given.default, str | int | float | bool | None)
            extra = {"default": given.default} if has_json_default else None
            items[key] = NotRequired[Annotated[given.type, Field(json_schema_extra=extra)]]
    return _typed_dict(name, items)


def _outputs_type(name: str, types: Mapping[str, Any]) -> Any:
    return _typed_dict(name, {key: NotRequired[yaml_types.json_type(type_) or Any] for key, type_ in types.items()})


def _typed_dict(name: str, items: dict[str, Any]) -> Any:
    make: Any = TypedDict  # type checkers reject a TypedDict whose keys are not literals
    typed_dict = make("".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name)), items)
    typed_dict.__pydantic_config__ = {"arbitrary_types_allowed": True, "ser_json_bytes": "utf8"}
    return typed_dict
