"""Serve Haystack pipelines and agents over REST and the OpenAI API from a watched directory."""

import importlib
from typing import TYPE_CHECKING, Any

from hayhooks import _compat
from hayhooks._version import __version__

if TYPE_CHECKING:
    from haystack import Pipeline
    from haystack import Pipeline as AsyncPipeline

    from hayhooks.app import create_app
    from hayhooks.http.responses import SSEEvent, SSEStream
    from hayhooks.observability.log import log
    from hayhooks.server.run import run_app
    from hayhooks.settings import Settings
    from hayhooks.toolkit.durable import DurableContext, DurableExecutionCancelledError, durable_streaming_callback
    from hayhooks.toolkit.durable_scope import current_durable_context, durable_context_scope
    from hayhooks.toolkit.events import (
        PipelineEvent,
        default_on_pipeline_end,
        default_on_tool_call_end,
        default_on_tool_call_start,
        details_on_tool_call_end,
        source_events,
    )
    from hayhooks.toolkit.generation import generation_kwargs_from
    from hayhooks.toolkit.inputs import coerce_pipeline_inputs
    from hayhooks.toolkit.messages import (
        chat_messages_from_openai,
        chat_messages_from_openai_response,
        get_input_files,
        get_last_user_input_text,
        get_last_user_message,
        is_user_message,
    )
    from hayhooks.toolkit.streaming import async_streaming_generator, streaming_generator
    from hayhooks.toolkit.yaml_wrapper import YAMLPipelineWrapper
    from hayhooks.wrapper import BasePipelineWrapper

_HOMES = {
    "AsyncPipeline": "haystack:Pipeline",  # Haystack 3 has one class for both
    "BasePipelineWrapper": "hayhooks.wrapper",
    "DurableContext": "hayhooks.toolkit.durable",
    "DurableExecutionCancelledError": "hayhooks.toolkit.durable",
    "Pipeline": "haystack",
    "PipelineEvent": "hayhooks.toolkit.events",
    "SSEEvent": "hayhooks.http.responses",
    "SSEStream": "hayhooks.http.responses",
    "Settings": "hayhooks.settings",
    "YAMLPipelineWrapper": "hayhooks.toolkit.yaml_wrapper",
    "async_streaming_generator": "hayhooks.toolkit.streaming",
    "chat_messages_from_openai": "hayhooks.toolkit.messages",
    "chat_messages_from_openai_response": "hayhooks.toolkit.messages",
    "coerce_pipeline_inputs": "hayhooks.toolkit.inputs",
    "create_app": "hayhooks.app",
    "current_durable_context": "hayhooks.toolkit.durable_scope",
    "default_on_pipeline_end": "hayhooks.toolkit.events",
    "default_on_tool_call_end": "hayhooks.toolkit.events",
    "default_on_tool_call_start": "hayhooks.toolkit.events",
    "details_on_tool_call_end": "hayhooks.toolkit.events",
    "durable_context_scope": "hayhooks.toolkit.durable_scope",
    "durable_streaming_callback": "hayhooks.toolkit.durable",
    "generation_kwargs_from": "hayhooks.toolkit.generation",
    "get_input_files": "hayhooks.toolkit.messages",
    "get_last_user_input_text": "hayhooks.toolkit.messages",
    "get_last_user_message": "hayhooks.toolkit.messages",
    "is_user_message": "hayhooks.toolkit.messages",
    "log": "hayhooks.observability.log",
    "run_app": "hayhooks.server.run",
    "source_events": "hayhooks.toolkit.events",
    "streaming_generator": "hayhooks.toolkit.streaming",
}

__all__ = [
    "AsyncPipeline",
    "BasePipelineWrapper",
    "DurableContext",
    "DurableExecutionCancelledError",
    "Pipeline",
    "PipelineEvent",
    "SSEEvent",
    "SSEStream",
    "Settings",
    "YAMLPipelineWrapper",
    "__version__",
    "async_streaming_generator",
    "chat_messages_from_openai",
    "chat_messages_from_openai_response",
    "coerce_pipeline_inputs",
    "create_app",
    "current_durable_context",
    "default_on_pipeline_end",
    "default_on_tool_call_end",
    "default_on_tool_call_start",
    "details_on_tool_call_end",
    "durable_context_scope",
    "durable_streaming_callback",
    "generation_kwargs_from",
    "get_input_files",
    "get_last_user_input_text",
    "get_last_user_message",
    "is_user_message",
    "log",
    "run_app",
    "source_events",
    "streaming_generator",
]

_compat.install()


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the command line must not pay for Haystack (PEP 562)."""
    try:
        module, _, attribute = _HOMES[name].partition(":")
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    globals()[name] = value = getattr(importlib.import_module(module), attribute or name)
    return value
