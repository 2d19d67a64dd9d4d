"""``YAMLPipelineWrapper``: a wrapper that takes its pipeline and its methods from a YAML file."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hayhooks.errors import InvalidMessagesError
from hayhooks.toolkit.conversations import messages_of_items, stored_reference
from hayhooks.toolkit.messages import require_chat_messages, require_user_text
from hayhooks.toolkit.streaming import async_streaming_generator, streaming_generator
from hayhooks.toolkit.target import can_stream
from hayhooks.toolkit.yaml_pipeline import Interface, build
from hayhooks.toolkit.yaml_source import YamlSource
from hayhooks.wrapper import SWITCHES, BasePipelineWrapper

if TYPE_CHECKING:
    from haystack import Pipeline


class YAMLPipelineWrapper(BasePipelineWrapper):
    """Serve a YAML pipeline; ``NAME.yml`` in the pipelines directory is loaded with this class.

    ``setup`` builds the pipeline and adds ``run_api``, which takes the YAML's ``inputs`` and returns its ``outputs``.
    With the key ``chat`` it also adds ``run_chat_completion`` and ``run_response``. If every component has
    ``run_async``, it adds the ``_async`` methods instead. A subclass can define any of them itself::

        class PipelineWrapper(YAMLPipelineWrapper):
            yaml_file = "pipeline.yml"  # beside this file
    """

    yaml_file: str | None = None  # for subclasses: a path relative to the folder of the subclass's module
    takes_components = False  # arguments are grouped by component: the YAML has neither inputs nor outputs
    stream_run: Callable[..., Any] | None = None  # run_api as a stream; None if no component streams

    def __init__(
        self, content: bytes | str | None = None, *, file: str = "", allowed_modules: Sequence[str] = ()
    ) -> None:
        self._content = content  # None: setup reads yaml_file
        self._file = file  # for error messages
        self._allowed_modules = tuple(allowed_modules)  # their components are trusted, in addition to Haystack's
        if type(self) is YAMLPipelineWrapper:
            self.__doc__ = ""  # the docstring of this class does not describe a pipeline

    @classmethod
    def from_yaml(cls, source_code: str, description: str | None = None) -> "YAMLPipelineWrapper":
        """Create a wrapper from YAML text; ``/status`` and the API pages show *description*."""
        wrapper = cls(source_code)
        wrapper.__doc__ = description or wrapper.__doc__
        return wrapper

    @classmethod
    def from_file(cls, yaml_path: Path | str, description: str | None = None) -> "YAMLPipelineWrapper":
        """Create a wrapper from a YAML file; see ``from_yaml``."""
        wrapper = cls(Path(yaml_path).read_bytes(), file=str(Path(yaml_path).absolute()))
        wrapper.__doc__ = description or wrapper.__doc__
        return wrapper

    def setup(self) -> None:
        """Build the pipeline and add the methods; a LoadError names the YAML's invalid key and its line."""
        content, file = self._content, self._file
        if content is None:
            if not self.yaml_file:
                raise ValueError(f"{type(self).__name__} has no YAML: set yaml_file = 'pipeline.yml' in the class")
            owner = next(cls for cls in type(self).__mro__ if "yaml_file" in vars(cls))
            path = Path(sys.modules[owner.__module__].__file__ or "").parent / self.yaml_file
            content, file = path.read_bytes(), str(path)
        source = YamlSource(content, file)
        self.pipeline = build(source, self._allowed_modules)
        interface = Interface.of(self.pipeline, source)
        self.takes_components = interface.components is not None
        self.__doc__ = vars(self).get("__doc__") or interface.description or self.__doc__
        for key in (*SWITCHES, "a2a_card"):
            owner = next(cls for cls in type(self).__mro__ if key in vars(cls))
            if owner is BasePipelineWrapper and source.data.get(key) is not None:  # a subclass keeps its own
                setattr(self, key, source.data[key])
        methods = _methods(self.pipeline, interface)
        stream_run = methods.pop("stream_run")
        for name, method in methods.items():
            sync_name = name.removesuffix("_async")
            variants = (sync_name, f"{sync_name}_async")
            # A subclass that defines either variant keeps its own.
            if all(getattr(type(self), variant) is getattr(BasePipelineWrapper, variant) for variant in variants):
                setattr(self, name, method)
                if sync_name == "run_api":
                    streams = any(can_stream(component) for _, component in self.pipeline.walk())
                    self.stream_run = stream_run if streams else None


def _methods(pipeline: "Pipeline", interface: Interface) -> dict[str, Callable[..., Any]]:
    included = set(interface.outputs)
    # Haystack runs a component without run_async in threads that all event loop tasks share.
    on_loop = all(hasattr(component, "run_async") for _, component in pipeline.walk())

    def run_api(**inputs: Any) -> Any:
        return interface.answer(pipeline.run(interface.data(inputs), include_outputs_from=included))

    async def run_api_async(**inputs: Any) -> Any:
        return interface.answer(await pipeline.run_async(interface.data(inputs), include_outputs_from=included))

    def stream_run(**inputs: Any) -> Any:
        generator = async_streaming_generator if on_loop else streaming_generator
        arguments = interface.data(inputs)
        return generator(pipeline, pipeline_run_args=arguments, streaming_components=interface.streaming_components)

    def run_chat_completion(messages: list[dict[str, Any]]) -> Any:
        read = require_chat_messages if interface.chat_takes_messages else require_user_text
        return stream_run(**{interface.chat: read(messages)})

    async def run_chat_completion_async(messages: list[dict[str, Any]]) -> Any:
        return run_chat_completion(messages)

    def run_response(input_items: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        if field := stored_reference(body):
            raise InvalidMessagesError(
                f"'{field}' refers to what is not stored here: send the whole conversation, with 'store': false"
            )
        return run_chat_completion(messages_of_items(input_items, body.get("instructions")))

    async def run_response_async(input_items: list[dict[str, Any]], body: dict[str, Any]) -> Any:
        return run_response(input_items, body)

    run = run_api_async if on_loop else run_api
    run.__annotations__ = {"inputs": Unpack[interface.request()], "return": interface.response()}
    run.__doc__ = interface.description
    methods: list[Callable[..., Any]] = [run, stream_run]
    if interface.chat:
        methods += [run_chat_completion_async, run_response_async] if on_loop else [run_chat_completion, run_response]
    return {method.__name__: method for method in methods}
