"""``YAMLPipelineWrapper``: a wrapper whose pipeline, arguments and answers are what a YAML file says."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from hayhooks.toolkit.messages import chat_messages, chat_messages_from_openai_response, require_user_text
from hayhooks.toolkit.streaming import async_streaming_generator, streaming_generator
from hayhooks.toolkit.yaml_pipeline import Interface, build
from hayhooks.toolkit.yaml_source import YamlSource
from hayhooks.wrapper import BasePipelineWrapper

if TYPE_CHECKING:
    from haystack import Pipeline

Methods = dict[str, Callable[..., Any]]


class YAMLPipelineWrapper(BasePipelineWrapper):
    """Serves a pipeline in YAML; a ``NAME.yml`` in the pipelines directory is one.

    ``setup`` builds the pipeline and makes of its ``inputs`` and ``outputs`` the methods: ``run_api``, and
    ``run_chat_completion`` and ``run_response`` where the YAML has a key ``chat``; the ``_async`` ones where every
    component has ``run_async``. Derive from it to add to that: methods that your class has stay yours. ::

        class PipelineWrapper(YAMLPipelineWrapper):
            yaml_file = "pipeline.yml"  # beside this file

    Attributes:
        yaml_file: of a class that derives from this one, the file's path, relative to the folder of its module.
        takes_components: whether the YAML has neither ``inputs`` nor ``outputs``: arguments come by component then.
    """

    yaml_file: str | None = None
    takes_components = False

    def __init__(
        self, content: bytes | str | None = None, *, file: str = "", allowed_modules: Sequence[str] = ()
    ) -> None:
        """Take the YAML itself, or what ``yaml_file`` names.

        Args:
            content: the YAML; None: read ``yaml_file``.
            file: its path, for messages.
            allowed_modules: whose components it may have, beside Haystack's.
        """
        self._content = content
        self._file = file
        self._allowed_modules = tuple(allowed_modules)
        if type(self) is YAMLPipelineWrapper:
            self.__doc__ = ""  # what describes the class describes no pipeline

    @classmethod
    def from_yaml(cls, source_code: str, description: str | None = None) -> "YAMLPipelineWrapper":
        """A wrapper of the YAML *source_code*; *description* is what ``/status`` and the API pages say of it."""
        wrapper = cls(source_code)
        wrapper.__doc__ = description or wrapper.__doc__
        return wrapper

    @classmethod
    def from_file(cls, yaml_path: Path | str, description: str | None = None) -> "YAMLPipelineWrapper":
        """As ``from_yaml``, of a file.

        Raises:
            OSError: it cannot be read.
        """
        wrapper = cls(Path(yaml_path).read_bytes(), file=str(Path(yaml_path).absolute()))
        wrapper.__doc__ = description or wrapper.__doc__
        return wrapper

    def setup(self) -> None:
        """Build the pipeline, and the methods that answer requests.

        Raises:
            LoadError: the YAML is wrong; the message names key and line.
        """
        source = self._source()
        self.pipeline = build(source, self._allowed_modules)
        interface = Interface.of(self.pipeline, source)
        self.takes_components = interface.components is not None
        self.__doc__ = vars(self).get("__doc__") or interface.description or self.__doc__
        methods = _async_methods if _is_async(self.pipeline) else _methods
        for name, method in methods(self.pipeline, interface).items():
            if not self._implements(name):
                setattr(self, name, method)

    def _source(self) -> YamlSource:
        if self._content is not None:
            return YamlSource(self._content, self._file)
        owner = next(cls for cls in type(self).__mro__ if "yaml_file" in vars(cls))
        if not self.yaml_file:
            raise ValueError(f"{type(self).__name__} has no YAML: say yaml_file = 'pipeline.yml' in the class")
        path = Path(sys.modules[owner.__module__].__file__ or "").parent / self.yaml_file
        return YamlSource(path.read_bytes(), str(path))

    def _implements(self, name: str) -> bool:
        """Whether a class that derives from this one has the method *name* itself, sync or async."""
        both = {name.removesuffix("_async"), f"{name.removesuffix('_async')}_async"}
        return any(getattr(type(self), each) is not getattr(BasePipelineWrapper, each) for each in both)


def _is_async(pipeline: "Pipeline") -> bool:
    """Whether it can run on the event loop; a component without ``run_async`` would take one of all others' threads."""
    return all(hasattr(component, "run_async") for _, component in pipeline.walk())


def _methods(pipeline: "Pipeline", interface: Interface) -> Methods:
    """The methods for a pipeline that runs in threads."""
    included = set(interface.outputs)

    def run_api(**inputs: Any) -> Any:
        return interface.answer(pipeline.run(interface.data(inputs), include_outputs_from=included))

    def stream(value: Any) -> Any:
        arguments = interface.data({interface.chat: value})
        return streaming_generator(
            pipeline, pipeline_run_args=arguments, streaming_components=interface.streaming_components
        )

    def run_chat_completion(messages: list[dict[str, Any]]) -> Any:
        return stream(_read_messages(interface, messages))

    def run_response(input_items: list[dict[str, Any]]) -> Any:
        return stream(_read_items(interface, input_items))

    return _described(interface, run_api, run_chat_completion, run_response)


def _async_methods(pipeline: "Pipeline", interface: Interface) -> Methods:
    """The methods for a pipeline that runs on the event loop."""
    included = set(interface.outputs)

    async def run_api_async(**inputs: Any) -> Any:
        return interface.answer(await pipeline.run_async(interface.data(inputs), include_outputs_from=included))

    def stream(value: Any) -> Any:
        arguments = interface.data({interface.chat: value})
        return async_streaming_generator(
            pipeline, pipeline_run_args=arguments, streaming_components=interface.streaming_components
        )

    async def run_chat_completion_async(messages: list[dict[str, Any]]) -> Any:
        return stream(_read_messages(interface, messages))

    async def run_response_async(input_items: list[dict[str, Any]]) -> Any:
        return stream(_read_items(interface, input_items))

    return _described(interface, run_api_async, run_chat_completion_async, run_response_async)


def _described(interface: Interface, run_api: Callable[..., Any], *conversations: Callable[..., Any]) -> Methods:
    """The methods by name; the arguments and the result of *run_api* as the pipeline has them."""
    run_api.__annotations__ = {"inputs": Unpack[interface.request()], "return": interface.response()}
    run_api.__doc__ = interface.description
    methods = (run_api, *(conversations if interface.chat else ()))
    return {method.__name__: method for method in methods}


def _read_messages(interface: Interface, messages: list[dict[str, Any]]) -> Any:
    """What the chat input takes of the *messages* of a chat completion."""
    return chat_messages(messages) if interface.chat_takes == "messages" else require_user_text(messages)


def _read_items(interface: Interface, input_items: list[dict[str, Any]]) -> Any:
    """What it takes of the items of a response."""
    if interface.chat_takes == "messages":
        return chat_messages_from_openai_response(input_items)
    return require_user_text(input_items)
