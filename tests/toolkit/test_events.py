import inspect
from dataclasses import FrozenInstanceError

import pytest
from haystack.dataclasses import ChatMessage

from hayhooks.toolkit import events
from hayhooks.toolkit.events import PipelineEvent


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            events.create_status_event("working"),
            {"type": "status", "data": {"description": "working", "done": False, "hidden": False}},
        ),
        (
            events.create_status_event("gone", done=True, hidden=True),
            {"type": "status", "data": {"description": "gone", "done": True, "hidden": True}},
        ),
        (
            events.create_notification_event("look"),
            {"type": "notification", "data": {"type": "info", "content": "look"}},
        ),
        (
            events.create_notification_event("oh", notification_type="error"),
            {"type": "notification", "data": {"type": "error", "content": "oh"}},
        ),
        (events.create_message_event("more"), {"type": "message", "data": {"content": "more"}}),
        (events.create_replace_event("new"), {"type": "replace", "data": {"content": "new"}}),
        (events.create_source_event({"source": {"name": "a"}}), {"type": "source", "data": {"source": {"name": "a"}}}),
        (events.create_chat_completion_event({"x": 1}), {"type": "chat:completion", "data": {"x": 1}}),
        (
            events.create_custom_element_event("Card", {"x": 1}),
            {"type": "custom_element", "data": {"name": "Card", "props": {"x": 1}}},
        ),
    ],
)
def test_an_event_is_sent_as_the_ui_expects_it(event: PipelineEvent, expected: dict[str, object]):
    assert isinstance(event, PipelineEvent)
    assert event.to_dict() == expected


def test_an_event_has_type_and_data_and_is_immutable():
    event = PipelineEvent(type="mine", data={"a": 1})

    assert event.to_dict() == {"type": "mine", "data": {"a": 1}}
    with pytest.raises(FrozenInstanceError):
        event.type = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "signature"),
    [
        (events.create_status_event, ["description", "done", "hidden"]),
        (events.create_notification_event, ["content", "notification_type"]),
        (events.create_message_event, ["content"]),
        (events.create_replace_event, ["content"]),
        (events.create_details_tag, ["tool_name", "summary", "content"]),
        (events.create_custom_element_event, ["name", "props"]),
        (events.default_on_tool_call_start, ["tool_name", "arguments", "tool_call_id"]),
        (events.default_on_tool_call_end, ["tool_name", "arguments", "result", "error"]),
        (events.default_on_pipeline_end, ["result"]),
    ],
)
def test_parameters_have_the_original_names(make, signature):
    assert list(inspect.signature(make).parameters) == signature


def test_a_details_tag_escapes_its_head():
    assert events.create_details_tag("search", "Found <3>", "```\n1 < 2\n```") == (
        '<details type="search" done="true">\n<summary>Found &lt;3&gt;</summary>\n\n```\n1 < 2\n```\n</details>\n\n'
    )


def test_default_callbacks_show_a_tool_call():
    start = events.default_on_tool_call_start("search", {}, "1")
    assert start is not None
    assert start.data == {"description": "Calling 'search' tool...", "done": False, "hidden": False}

    status, block = events.default_on_tool_call_end("search", {"q": "cats"}, "3 found", False)
    assert isinstance(status, PipelineEvent)
    assert status.data["done"]
    assert isinstance(block, str)
    assert "{'q': 'cats'}" in block
    assert "3 found" in block


def test_a_failed_call_is_notified_and_an_unnamed_one_is_skipped():
    hidden, notice = events.default_on_tool_call_end("search", {}, "boom", True)

    assert isinstance(hidden, PipelineEvent)
    assert isinstance(notice, PipelineEvent)
    assert hidden.data["hidden"]
    assert notice.data == {"type": "error", "content": "Error calling 'search' tool"}
    assert events.default_on_tool_call_start("", None, None) is None


def test_a_pipelines_result_becomes_text():
    assert events.default_on_pipeline_end("done") == "done"
    assert events.default_on_pipeline_end({"llm": {"é": 1}}) == '{"llm": {"é": 1}}'
    assert '"text": "hi"' in events.default_on_pipeline_end([ChatMessage.from_user("hi")])
    assert "object" in events.default_on_pipeline_end(object())
