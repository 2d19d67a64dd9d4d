"""A pipeline in YAML as an object, and what it takes and gives: its sockets, by the names that the YAML gives them."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Required, get_args, get_origin

from pydantic import Field
from typing_extensions import TypedDict

from hayhooks.errors import LoadError, safe_str
from hayhooks.toolkit import yaml_types
from hayhooks.toolkit.target import stream_target
from hayhooks.toolkit.yaml_source import YamlSource, nearest

if TYPE_CHECKING:
    from haystack import Pipeline

Sockets = Mapping[str, Mapping[str, Any]]  # by component and name, as Pipeline.inputs() tells them
Path = tuple[str, Any]  # of a key in the YAML: its section and its name

_ALLOWLIST = "HAYSTACK_DESERIALIZATION_ALLOWLIST"
_OF_PIPELINE = ("metadata", "max_runs_per_component", "connection_type_validation")
_NOT_GIVEN = ("streaming_callback", "tools")  # by requests


@dataclass(frozen=True, slots=True)
class Input:
    """One name in the ``inputs`` section."""

    targets: tuple[tuple[str, str], ...]  # component and socket, of each that gets the value
    type: Any
    required: bool
    default: Any = ...  # what the component takes where the value is left out; "..." if that cannot be shown


@dataclass(frozen=True, slots=True)
class Interface:
    """What a pipeline takes and gives."""

    inputs: Mapping[str, Input]
    components: Mapping[str, Mapping[str, Input]] | None  # of the oldest form, which has no sections; else None
    outputs: Mapping[str, Mapping[str, Any]]  # the types of what is answered, by component and socket
    description: str
    chat: str = ""  # the input that takes a conversation, "" if none does
    chat_takes: str = ""  # of it: "messages", or the last "text" of the user
    streaming_components: Any = None  # as streaming_generator takes it

    @classmethod
    def of(cls, pipeline: "Pipeline", source: YamlSource) -> "Interface":
        """Read the sections of *source* against the sockets of *pipeline*.

        Raises:
            LoadError: something in them does not fit.
        """
        sockets, description = _Sockets(pipeline, source), source.section("description")
        if source.data.get("inputs") is None and source.data.get("outputs") is None:
            if source.section("chat"):
                raise source.error("chat names an input, but there is no section inputs", "chat")
            return cls({}, sockets.free_by_component(), sockets.leaves(), description)
        inputs = {name: sockets.input(name, targets) for name, targets in source.section("inputs").items()}
        sockets.check_that_all_are_fed(inputs)
        outputs = sockets.outputs(source.section("outputs")) or sockets.leaves()
        chat, streaming = source.section("chat"), source.data.get("streaming_components")
        takes = _checked_chat(source, chat, inputs) if chat else ""
        if chat or streaming is not None:
            _check_streaming(pipeline, source)
        return cls(inputs, None, outputs, description, chat, takes, streaming)

    def data(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the pipeline runs with when *values* are given by name: by component and socket."""
        if self.components is not None:
            return {name: dict(given) for name, given in values.items()}
        data: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            for component, socket in self.inputs[name].targets:
                data.setdefault(component, {})[socket] = value
        return data

    def answer(self, result: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Of a pipeline's *result* what is asked for; what was not made, on a way not taken, is left out."""
        return {
            component: {socket: made[socket] for socket in sockets if socket in made}
            for component, sockets in self.outputs.items()
            if (made := result.get(component)) is not None
        }

    def request(self) -> Any:
        """A TypedDict of what ``/run`` takes."""
        if self.components is None:
            return _typed_dict("Inputs", self.inputs)
        by_component = {
            name: Input((), _typed_dict(f"{name}Inputs", sockets), any(socket.required for socket in sockets.values()))
            for name, sockets in self.components.items()
        }
        return _typed_dict("Inputs", by_component)

    def response(self) -> Any:
        """A TypedDict of what ``/run`` answers with."""
        parts = {name: _outputs(f"{name}Outputs", sockets) for name, sockets in self.outputs.items()}
        return _outputs("Outputs", parts)


def build(source: YamlSource, allowed_modules: Sequence[str] = ()) -> "Pipeline":
    """Make the pipeline of *source*, one part after the other: so it is known which one fails.

    Args:
        source: what to build.
        allowed_modules: whose components it may have beside Haystack's own.

    Raises:
        LoadError: a component or a connection cannot be made.
    """
    from haystack import Pipeline  # noqa: PLC0415 - it takes a second to import, and the command line imports this

    pipeline: Pipeline = Pipeline.from_dict({key: source.data[key] for key in _OF_PIPELINE if key in source.data})
    for name, data in source.section("components").items():
        with _told_of_component(source, name):
            part = Pipeline.from_dict({"components": {name: data}}, allowed_modules=list(allowed_modules))
            pipeline.add_component(name, part.remove_component(name))
    for index, connection in enumerate(source.section("connections")):
        sender, receiver = connection["sender"], connection["receiver"]
        problem = _end_problem(pipeline, sender, _outputs_of(pipeline)) or _end_problem(
            pipeline, receiver, _inputs_of(pipeline)
        )
        if problem:
            raise source.error(problem, "connections", index)
        try:
            pipeline.connect(sender, receiver)
        except Exception as error:  # each kind of mistake has another class of Haystack's
            raise source.error(" ".join(safe_str(error).split()), "connections", index) from error
    return pipeline


def _inputs_of(pipeline: "Pipeline") -> Sockets:
    return pipeline.inputs(include_components_with_connected_inputs=True)


def _outputs_of(pipeline: "Pipeline") -> Sockets:
    return pipeline.outputs(include_components_with_connected_outputs=True)


def _end_problem(pipeline: "Pipeline", end: str, sockets: Sockets) -> str:
    """What is wrong with *end*, of a connection or a section: it names a component, or one of its *sockets*."""
    component, dot, socket = end.partition(".")
    if component not in pipeline.graph.nodes:
        close = nearest(component, pipeline.graph.nodes)
        return f"{end!r}: there is no component {component!r}" + (f"; did you mean {close!r}?" if close else "")
    known = sockets.get(component, {})
    if not dot or socket in known:
        return ""
    close = nearest(socket, known)
    there = f"did you mean {close!r}?" if close else f"it has {', '.join(known) or 'none'}"
    return f"{end!r}: component {component!r} has no socket {socket!r} there; {there}"


@contextmanager
def _told_of_component(source: YamlSource, name: str) -> Iterator[None]:
    """Say of what goes wrong in this context that it does in the component *name*, and where that is."""
    try:
        yield
    # Whatever the constructor of a component raises, or its module when it is imported.
    except Exception as error:
        raise _component_error(source, name, error) from error


def _component_error(source: YamlSource, name: str, error: Exception) -> LoadError:
    component, cause = source.data["components"][name], error.__cause__ or error
    kind, subject, path = component["type"], f"component {name!r}", ("components", name)
    message = " ".join(safe_str(cause).split())
    if message.startswith("Refusing to deserialize a class"):
        refused = source.error(f"{subject} is a {kind}, and that module is not trusted", *path, "type")
        refused.hint = f"let it lie on HAYHOOKS_ADDITIONAL_PYTHON_PATH, or name its module in {_ALLOWLIST}"
        return refused
    if message.startswith("Successfully imported module"):
        close = _registered(kind)
        suggestion = f"; did you mean {close}?" if close else ""
        return source.error(f"{subject}: there is no component {kind}{suggestion}", *path, "type")
    if isinstance(cause, ModuleNotFoundError) and kind.startswith(f"{cause.name}."):
        return source.error(f"{subject}: there is no component {kind}: {message}", *path, "type")
    parameters = component.get("init_parameters") or ()
    named = [key for key in parameters if f"'{key}'" in message]
    where = (*path, "init_parameters", named[0]) if named else path
    return source.error(f"{subject} ({kind.rpartition('.')[2]}): {type(cause).__name__}: {message}", *where)


def _registered(kind: str) -> str:
    """The component that *kind* was probably meant to be: where its class really is, or one of a name like it."""
    from haystack import component  # noqa: PLC0415 - as above

    module, _, name = kind.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if isinstance(cls, type) and (path := f"{cls.__module__}.{cls.__name__}") in component.registry:
        return path
    return nearest(kind, [path for path in component.registry if not path.startswith("_")])


class _Sockets:
    """The sockets of a pipeline, and what the YAML says of them."""

    def __init__(self, pipeline: "Pipeline", source: YamlSource) -> None:
        self._pipeline = pipeline
        self._source = source
        self._inputs = _inputs_of(pipeline)
        self._free: Sockets = pipeline.inputs()
        self._outputs = _outputs_of(pipeline)
        self._leaves: Sockets = pipeline.outputs()

    def input(self, name: Any, targets: Any) -> Input:
        """The input *name*, whose value goes to *targets*."""
        path = ("inputs", name)
        if not isinstance(name, str):
            raise self._source.error(f"the input's name {name!r} must be a text: put it into quotes", *path)
        found = [self._found(path, target, self._inputs) for target in self._listed(path, targets)]
        accepted = [self._accepted(path, *target) for target in found]
        type_ = yaml_types.common(accepted)
        if type_ is None:
            types = " and ".join(
                f"{'.'.join(target)} ({yaml_types.type_name(self._inputs[target[0]][target[1]]['type'])})"
                for target in found
            )
            raise self._source.error(f"inputs.{name} goes to {types}, which take no value in common", *path)
        sockets = [self._free[component][socket] for component, socket in found]
        required = any(socket["is_mandatory"] for socket in sockets)
        return Input(tuple(found), type_, required, sockets[0].get("default_value", ...))

    def _accepted(self, path: Path, component: str, socket: str) -> Any:
        """The type that a request can give to the socket."""
        if socket not in self._free.get(component, {}):
            message = (
                f"{'.'.join(path)} names {component}.{socket}, which a connection feeds already: remove one of them"
            )
            raise self._source.error(message, *path)
        type_ = self._free[component][socket]["type"]
        accepted = None if socket == "tools" else yaml_types.as_json(type_)
        if accepted is None:
            type_name = yaml_types.type_name(type_)
            message = f"{'.'.join(path)} names {component}.{socket}, a {type_name}: no request can give that"
            raise self._source.error(message, *path)
        return accepted

    def outputs(self, named: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
        """The types of the outputs that are *named*."""
        outputs: dict[str, dict[str, Any]] = {}
        for name, targets in named.items():
            path = ("outputs", name)
            for target in self._listed(path, targets):
                component, socket = self._found(path, target, self._outputs)
                outputs.setdefault(component, {})[socket] = self._outputs[component][socket]["type"]
        return outputs

    def leaves(self) -> dict[str, dict[str, Any]]:
        """The types of all outputs that are connected nowhere: what a pipeline returns by itself."""
        return {
            component: {name: socket["type"] for name, socket in sockets.items()}
            for component, sockets in self._leaves.items()
        }

    def free_by_component(self) -> dict[str, dict[str, Input]]:
        """Every input that a request can give, by component and socket."""
        found: dict[str, dict[str, Input]] = {}
        for component, sockets in self._free.items():
            for name, socket in sockets.items():
                type_ = yaml_types.as_json(socket["type"])
                if name in _NOT_GIVEN or (type_ is None and not socket["is_mandatory"]):
                    continue
                required, default = socket["is_mandatory"], socket.get("default_value", ...)
                found.setdefault(component, {})[name] = Input(((component, name),), type_ or Any, required, default)
        return found

    def check_that_all_are_fed(self, inputs: Mapping[str, Input]) -> None:
        """See that no socket has to have a value that nothing gives."""
        named = {target for each in inputs.values() for target in each.targets}
        for component, sockets in self._free.items():
            for name, socket in sockets.items():
                if socket["is_mandatory"] and (component, name) not in named:
                    message = (
                        f"component {component!r} needs {name!r}, which nothing gives: "
                        f"name {component}.{name} in inputs, or connect it"
                    )
                    raise self._source.error(message, "components", component)

    def _listed(self, path: Path, targets: Any) -> list[Any]:
        listed = targets if isinstance(targets, list) else [targets]
        if not listed:
            raise self._source.error(f"{path[0]}.{path[1]} names nothing: write component.socket", *path)
        return listed

    def _found(self, path: Path, target: Any, sockets: Sockets) -> tuple[str, str]:
        """The component and the socket that *target* names."""
        subject = f"{path[0]}.{path[1]}"
        if not isinstance(target, str) or "." not in target:
            raise self._source.error(f"{subject} must be component.socket, or a list of them, not {target!r}", *path)
        if problem := _end_problem(self._pipeline, target, sockets):
            raise self._source.error(f"{subject} names {problem}", *path)
        component, _, socket = target.partition(".")
        return component, socket


def _checked_chat(source: YamlSource, chat: str, inputs: Mapping[str, Input]) -> str:
    """What the input *chat* takes of a conversation: its "messages", or the last "text" of the user."""
    if chat not in inputs:
        close = nearest(chat, inputs)
        there = f"did you mean {close!r}?" if close else f"there are {', '.join(inputs) or 'none'}"
        raise source.error(f"chat names the input {chat!r}, which is not in inputs; {there}", "chat")
    for name, other in inputs.items():
        if other.required and name != chat:
            message = f"chat: the input {name!r} is required too, and a conversation does not bring it"
            raise source.error(message, "chat")
    kinds = yaml_types.parts(inputs[chat].type)
    if any(get_origin(kind) is list and getattr(get_args(kind)[0], "__name__", "") == "ChatMessage" for kind in kinds):
        return "messages"
    if str in kinds or Any in kinds:
        return "text"
    type_ = yaml_types.type_name(inputs[chat].type)
    raise source.error(f"chat: the input {chat!r} takes {type_}, and neither a text nor a list[ChatMessage]", "chat")


def _check_streaming(pipeline: "Pipeline", source: YamlSource) -> None:
    wanted = source.data.get("streaming_components")
    key = "chat" if wanted is None else "streaming_components"
    if not (wanted is None or wanted == "all" or (isinstance(wanted, list) and wanted)):
        raise source.error(f"{key} must be 'all' or a list of components", key)
    try:
        stream_target(pipeline, {}, None, wanted)
    except ValueError as error:
        raise source.error(f"{key}: {error}", key) from None


def _typed_dict(name: str, inputs: Mapping[str, Input]) -> Any:
    return _made(name, {key: _item(given) for key, given in inputs.items()})


def _item(given: Input) -> Any:
    if given.required:
        return Required[given.type]
    is_plain = isinstance(given.default, str | int | float | bool | None)
    shown = {"default": given.default} if is_plain else None
    return NotRequired[Annotated[given.type, Field(json_schema_extra=shown)]]


def _outputs(name: str, types: Mapping[str, Any]) -> Any:
    return _made(name, {key: NotRequired[yaml_types.as_json(type_) or Any] for key, type_ in types.items()})


def _made(name: str, items: dict[str, Any]) -> Any:
    make: Any = TypedDict  # made at run time, which type checkers cannot follow
    made = make("".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name)), items)
    made.__pydantic_config__ = {"arbitrary_types_allowed": True, "ser_json_bytes": "utf8"}
    return made
