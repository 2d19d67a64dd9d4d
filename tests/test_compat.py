"""Wrappers written for the original hayhooks run unchanged."""

import contextlib
import importlib
import inspect
import logging
import os
import pickle
import subprocess
import sys
import typing

import pytest
from haystack.tracing.tracer import Span, Tracer, tracer

import hayhooks
from hayhooks import _compat
from tests.live_server import LiveServer, serving

# What wrappers in the wild import, as a list of its own: the table must hold all of it.
DEEP = {
    "hayhooks.settings": ["AppSettings", "settings"],
    "hayhooks.server.exceptions": [
        "InvalidYamlIOError",
        "PipelineAlreadyExistsError",
        "PipelineFilesError",
        "PipelineModuleLoadError",
        "PipelineNotFoundError",
        "PipelineWrapperError",
    ],
    "hayhooks.server.logger": ["intercept_stdlib_logging", "log"],
    "hayhooks.server.utils.base_pipeline_wrapper": ["BasePipelineWrapper"],
    "hayhooks.server.pipelines.utils": [
        "ToolCallbackReturn",
        "async_streaming_generator",
        "chat_messages_from_openai_response",
        "coerce_pipeline_inputs",
        "get_content",
        "get_input_files",
        "get_last_user_input_text",
        "get_last_user_message",
        "is_user_message",
        "streaming_generator",
    ],
    "hayhooks.server.utils.haystack_compat": ["Pipeline", "AsyncPipeline"],
    "hayhooks.server.pipelines.sse": ["SSEStream"],
    "hayhooks.server.app": ["create_app", "run_app"],
    "hayhooks.open_webui": [
        "MessageEventData",
        "NotificationEventData",
        "OpenWebUIEvent",
        "PipelineEvent",
        "StatusEventData",
        "create_chat_completion_event",
        "create_details_tag",
        "create_message_event",
        "create_notification_event",
        "create_replace_event",
        "create_source_event",
        "create_status_event",
    ],
    "hayhooks.events": [
        "NotificationEventData",
        "PipelineEvent",
        "StatusEventData",
        "create_notification_event",
        "create_status_event",
    ],
    "hayhooks.callbacks": ["default_on_pipeline_end", "default_on_tool_call_end", "default_on_tool_call_start"],
    "hayhooks.chainlit_events": ["create_custom_element_event"],
    "hayhooks.server.pipelines": ["registry"],
    "hayhooks.server.pipelines.registry": ["registry"],
    "hayhooks.server.tracing": ["build_trace_tags", "trace_operation"],
    "hayhooks.testing.components": ["Hello"],
}

TOP = [
    "BasePipelineWrapper",
    "Pipeline",
    "AsyncPipeline",
    "PipelineEvent",
    "SSEStream",
    "streaming_generator",
    "async_streaming_generator",
    "get_last_user_message",
    "get_last_user_input_text",
    "get_input_files",
    "is_user_message",
    "chat_messages_from_openai_response",
    "coerce_pipeline_inputs",
    "create_app",
    "run_app",
    "default_on_tool_call_start",
    "default_on_tool_call_end",
    "default_on_pipeline_end",
    "log",
]


@pytest.mark.parametrize("name", TOP)
def test_a_name_of_the_package_is_there(name: str):
    assert name in hayhooks.__all__
    assert getattr(hayhooks, name) is not None


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in DEEP.items() for name in names])
def test_a_deep_path_gives_what_it_gave(module: str, name: str):
    found = getattr(importlib.import_module(module), name)

    if name in hayhooks.__all__:
        assert found is getattr(hayhooks, name)
    assert found is not None


@pytest.mark.slow
def test_every_path_can_be_imported_as_the_first_thing_of_a_process():
    script = "import importlib, sys\n" + "".join(
        f"for name in {names}: getattr(importlib.import_module({module!r}), name)\n" for module, names in DEEP.items()
    )
    # What is imported before is not ours; each path is the first of ours in a fork of its own.
    first = """
import importlib, os, sys
import haystack.components.generators.chat, httpx, loguru, pydantic_settings, starlette.applications, uvicorn
for module in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(module)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, module
"""
    done = subprocess.run([sys.executable, "-c", first, *DEEP], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("first", ["hayhooks.server.pipelines", "hayhooks.server.pipelines.registry"])
def test_the_registry_of_the_package_is_no_module(first: str):
    code = f"import {first}; from hayhooks.server.pipelines import registry; print(registry.get_names())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)

    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_events_are_made_and_read_as_before():
    events = importlib.import_module("hayhooks.open_webui")
    status = events.OpenWebUIEvent(type="status", data=events.StatusEventData(description="reading"))
    note = events.create_notification_event("done", "success")

    assert status.to_event_dict() == status.to_dict()
    assert status.to_dict() == {"type": "status", "data": {"description": "reading", "done": False, "hidden": False}}
    assert (note.data.type, note.data.content, note.data["content"]) == ("success", "done", "done")
    assert isinstance(note.data, events.NotificationEventData)
    assert events.create_message_event("x").data.content == "x"
    assert pickle.loads(pickle.dumps(status)) == status
    with pytest.raises(AttributeError, match="nothing"):
        _ = note.data.nothing


def test_loggers_of_the_standard_library_reach_the_log(logged: list[str]):
    intercept = importlib.import_module("hayhooks.server.logger").intercept_stdlib_logging
    logger = logging.getLogger("of.a.program")
    try:
        intercept(["of.a.program"])
        logger.warning("to the log")
        assert [line for line in logged if "to the log" in line]
    finally:
        logger.handlers.clear()


def test_a_wrapper_may_be_left_out_of_mcp():
    assert hayhooks.BasePipelineWrapper.skip_mcp is False
    assert hayhooks.BasePipelineWrapper.skip_a2a is False


def test_a_star_import_gives_the_names_of_the_table():
    namespace: dict[str, object] = {}
    exec("from hayhooks.open_webui import *", namespace)

    assert set(DEEP["hayhooks.open_webui"]) <= namespace.keys()


def test_a_path_that_never_was_is_no_module():
    with pytest.raises(ModuleNotFoundError, match=r"hayhooks\.server\.nothing"):
        importlib.import_module("hayhooks.server.nothing")
    with pytest.raises(AttributeError, match="'nothing'"):
        getattr(importlib.import_module("hayhooks.settings"), "nothing")  # noqa: B009 - mypy knows that it is not there


def test_nothing_of_the_table_is_made_before_it_is_asked_for():
    listed = {*_compat.MODULES, "hayhooks.server", "hayhooks.testing"}
    code = f"import sys, hayhooks; sys.exit(str({listed} & set(sys.modules) or 0) != '0')"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_streaming_generators_take_what_they_took():
    common = [
        "pipeline",
        "pipeline_run_args",
        "on_tool_call_start",
        "on_tool_call_end",
        "on_reasoning",
        "on_pipeline_end",
        "streaming_components",
        "include_outputs_from",
        "external_event_queue",
    ]
    sync = inspect.signature(hayhooks.streaming_generator).parameters
    both = inspect.signature(hayhooks.async_streaming_generator).parameters

    ours = "on_component_end"
    assert [name for name in sync if name != ours] == common
    assert set(both) == {*common, ours, "allow_sync_streaming_callbacks", "shield_pipeline_task"}
    for parameters in (sync, both):
        (pipeline, *options) = parameters.values()
        assert pipeline.kind is pipeline.POSITIONAL_OR_KEYWORD
        assert all(option.kind is option.KEYWORD_ONLY and option.default in (None, False) for option in options)


ORIGINAL = '''
from typing import Generator, List, Union

from haystack import Pipeline
from haystack.components.generators.chat import MockChatGenerator
from haystack.dataclasses import ChatMessage

from hayhooks.callbacks import default_on_tool_call_end, default_on_tool_call_start
from hayhooks.open_webui import OpenWebUIEvent, create_notification_event, create_status_event
from hayhooks.server.logger import log
from hayhooks.server.pipelines.registry import registry
from hayhooks.server.pipelines.utils import get_last_user_message, streaming_generator
from hayhooks.server.tracing import build_trace_tags, trace_operation
from hayhooks.server.utils.base_pipeline_wrapper import BasePipelineWrapper
from hayhooks.settings import settings
from hayhooks.testing.components import Hello


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", MockChatGenerator("one two"))
        self.hello = Pipeline()
        self.hello.add_component("hello", Hello())

    def run_api(self, word: str) -> dict:
        """
        Say hello.

        Args:
            word: to whom.
        """
        log.trace("Running with {}", word)
        with trace_operation("hello", tags=build_trace_tags({"word": word}, nothing=None)) as span:
            span.set_tag("more", 1)
            result = self.hello.run({"hello": {"word": word}})
        return {
            "output": result["hello"]["output"],
            "names": registry.get_names(),
            "self": registry.get("old") is self,
            "port": settings.port,
            "unknown": registry.get("nobody"),
        }

    def run_chat_completion(self, model: str, messages: List[dict], body: dict) -> Union[str, Generator]:
        log.info("question: {}", get_last_user_message(messages))
        return streaming_generator(
            pipeline=self.pipeline,
            pipeline_run_args={"llm": {"messages": [ChatMessage.from_user(get_last_user_message(messages))]}},
            on_tool_call_start=default_on_tool_call_start,
            on_tool_call_end=default_on_tool_call_end,
        )
'''


def test_a_wrapper_of_the_original_deploys_and_runs_unchanged(root):
    with serving(root, port=4321) as server:
        server.serve("old", ORIGINAL)

        assert server.run("old", word="you") == {
            "output": "Hello, you!",
            "names": ["old"],
            "self": True,
            "port": 4321,
            "unknown": None,
        }
        body = {"model": "old", "messages": [{"role": "user", "content": "hi"}]}
        answer = server.client.post("/v1/chat/completions", json=body)
        assert answer.json()["choices"][0]["message"]["content"] == "one two"


def test_the_registry_follows_what_is_served(server: LiveServer):
    registry = importlib.import_module("hayhooks.server.pipelines.registry").registry
    server.serve("one")
    first = registry.get("one")
    server.serve("one", answer="changed")

    assert registry.get_names() == ["one"]
    assert registry.get("one") not in (None, first)
    server.remove("one")
    server.eventually(lambda: not registry.get_names(), "the name to go")


def test_without_a_server_the_registry_is_empty(tmp_path):
    """Where nothing runs the registry is empty and settings are the environment's."""
    code = """
from hayhooks.server.pipelines.registry import registry
from hayhooks.settings import settings

assert registry.get_names() == []
assert settings.port == 2345
"""
    environment = {**os.environ, "HAYHOOKS_PORT": "2345"}
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path, env=environment).returncode == 0


def test_an_operation_that_fails_is_traced_with_its_error(monkeypatch):
    spans: list[dict[str, typing.Any]] = []

    class Noted(Span):
        def __init__(self, tags: dict[str, typing.Any]) -> None:
            self.tags = tags

        def set_tag(self, key: str, value: typing.Any) -> None:
            self.tags[key] = value

    class Notes(Tracer):
        def trace(self, operation_name, tags=None, parent_span=None):
            spans.append({"name": operation_name, **(tags or {})})
            return contextlib.nullcontext(Noted(spans[-1]))

        def current_span(self):
            return None

    monkeypatch.setattr(tracer, "actual_tracer", Notes())
    trace_operation = importlib.import_module("hayhooks.server.tracing").trace_operation
    with pytest.raises(ValueError, match="broke"), trace_operation("mine", tags={"a": 1}):
        raise ValueError("it broke")

    (span,) = spans
    assert span.pop("hayhooks.elapsed_ms") >= 0
    assert span == {
        "name": "mine",
        "a": 1,
        "hayhooks.success": False,
        "hayhooks.error.type": "ValueError",
        "hayhooks.error.message": "it broke",
    }
