"""Import paths of the original hayhooks: wrappers written for it run unchanged.

``install`` adds one finder at the end of ``sys.meta_path``, so our own package ``hayhooks.server`` is found first.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_EVENTS = "PipelineEvent StatusEventData NotificationEventData create_status_event create_notification_event"
_OPEN_WEBUI = (
    "MessageEventData create_message_event create_replace_event create_source_event create_chat_completion_event"
)
_DURABLE = "DurableContext DurableExecutionCancelledError durable_streaming_callback"
_DURABLE_SCOPE = "current_durable_context durable_context_scope"
_MESSAGES = (
    "get_content get_input_files get_last_user_input_text get_last_user_message is_user_message "
    "chat_messages_from_openai_response"
)

# Module of the original -> our modules and the names in them; "theirs=ours" where the name differs.
MODULES = {
    "hayhooks.callbacks": {
        "hayhooks.toolkit.events": "default_on_tool_call_start default_on_tool_call_end default_on_pipeline_end",
    },
    "hayhooks.chainlit_events": {
        "hayhooks.toolkit.events": "ChainlitEvent=PipelineEvent create_custom_element_event",
    },
    "hayhooks.durable": {"hayhooks.toolkit.durable": _DURABLE, "hayhooks.toolkit.durable_scope": _DURABLE_SCOPE},
    "hayhooks.durable.context": {
        "hayhooks.toolkit.durable": _DURABLE,
        "hayhooks.toolkit.durable_scope": _DURABLE_SCOPE,
    },
    "hayhooks.events": {"hayhooks.toolkit.events": _EVENTS},
    "hayhooks.open_webui": {
        "hayhooks.toolkit.events": f"OpenWebUIEvent=PipelineEvent {_EVENTS} {_OPEN_WEBUI} create_details_tag",
    },
    "hayhooks.server.app": {"hayhooks.app": "create_app", "hayhooks.server.run": "run_app"},
    "hayhooks.server.exceptions": {
        "hayhooks.errors": (
            "InvalidYamlIOError=LoadError PipelineAlreadyExistsError=HayhooksError PipelineFilesError=HayhooksError "
            "PipelineModuleLoadError=HayhooksError PipelineNotFoundError=NotFoundError "
            "PipelineWrapperError=HayhooksError"
        ),
    },
    "hayhooks.server.logger": {"hayhooks.observability.log": "intercept_stdlib_logging log"},
    "hayhooks.server.pipelines": {"hayhooks.toolkit.registry": "registry"},
    "hayhooks.server.pipelines.registry": {"hayhooks.toolkit.registry": "registry"},
    "hayhooks.server.pipelines.sse": {"hayhooks.http.responses": "SSEStream"},
    "hayhooks.server.pipelines.utils": {
        "hayhooks.toolkit.inputs": "coerce_pipeline_inputs",
        "hayhooks.toolkit.messages": _MESSAGES,
        "hayhooks.toolkit.dispatcher": "OnPipelineEnd OnReasoning OnToolCallEnd OnToolCallStart ToolCallbackReturn",
        "hayhooks.toolkit.streaming": "async_streaming_generator streaming_generator",
    },
    "hayhooks.server.tracing": {"hayhooks.toolkit.tracing": "build_trace_tags trace_operation"},
    "hayhooks.server.utils.base_pipeline_wrapper": {"hayhooks.wrapper": "BasePipelineWrapper"},
    "hayhooks.server.utils.yaml_pipeline_wrapper": {"hayhooks.toolkit.yaml_wrapper": "YAMLPipelineWrapper"},
    "hayhooks.server.utils.haystack_compat": {"haystack": "Pipeline AsyncPipeline=Pipeline"},
}

_PACKAGES = {module.rsplit(".", depth)[0] for module in MODULES for depth in (1, 2)} - {"hayhooks"}


def install() -> None:
    """Make the modules of the table importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def homes() -> dict[str, str]:
    """Return a module to import each name of the table from, by the original's name."""
    found: dict[str, str] = {}
    for original, listed in MODULES.items():
        for home, names in listed.items():
            for theirs, _, ours in (item.partition("=") for item in names.split()):
                found[theirs] = original if ours else home
    return found | dict.fromkeys(importlib.import_module("hayhooks").__all__, "hayhooks")


# Without a base class: `importlib.abc` takes longer to import than the rest of this package.
class _Finder:
    """Finds the modules of the table, and makes their missing parent packages."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MODULES and fullname not in _PACKAGES:
            return None
        return ModuleSpec(fullname, self, is_package=fullname in _PACKAGES)  # type: ignore[arg-type]  # see above

    def create_module(self, spec: ModuleSpec) -> None:
        """Let Python make an ordinary module."""

    def exec_module(self, module: ModuleType) -> None:
        names: list[str] = []
        for home, listed in MODULES.get(module.__name__, {}).items():
            ours = importlib.import_module(home)
            for theirs, _, name in (item.partition("=") for item in listed.split()):
                if (part := f"{module.__name__}.{theirs}") in MODULES:  # its import would replace the name by itself
                    importlib.import_module(part)
                setattr(module, theirs, getattr(ours, name or theirs))
                names.append(theirs)
        if names:
            module.__all__ = names  # type: ignore[attr-defined]
            module.__doc__ = (
                f"The names of the original {module.__name__}; ours are in {', '.join(MODULES[module.__name__])}."
            )
