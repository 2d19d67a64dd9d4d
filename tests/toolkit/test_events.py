import inspect
from dataclasses import FrozenInstanceError
from datetime import date

import pytest
from haystack.dataclasses import ChatMessage, Document

from hayhooks.toolkit import events
from hayhooks.toolkit.events import PipelineEvent, source_events


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
        (events.details_on_tool_call_end, ["tool_name", "arguments", "result", "error"]),
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

    status, ended = events.default_on_tool_call_end("search", {"q": "cats"}, "3 found", False)
    assert status.data["done"]
    assert ended.to_dict() == {
        "type": "tool_call_end",
        "data": {"name": "search", "arguments": {"q": "cats"}, "result": "3 found", "error": False},
    }


def test_details_of_a_tool_call_are_text_where_they_are_asked_for():
    status, block = events.details_on_tool_call_end("search", {"q": "cats"}, "3 found", False)
    assert isinstance(status, PipelineEvent)
    assert status.data["done"]
    assert isinstance(block, str)
    assert "{'q': 'cats'}" in block
    assert "3 found" in block


@pytest.mark.parametrize("callback", [events.default_on_tool_call_end, events.details_on_tool_call_end])
def test_a_failed_call_is_notified(callback):
    hidden, notice, *ended = callback("search", {}, "boom", True)

    assert hidden.data["hidden"]
    assert notice.data == {"type": "error", "content": "Error calling 'search' tool"}
    assert [event.data["error"] for event in ended] == [True] * (callback is events.default_on_tool_call_end)


def test_an_unnamed_call_is_skipped():
    assert events.default_on_tool_call_start("", None, None) is None


def test_what_json_does_not_have_becomes_text_in_an_event():
    _, ended = events.default_on_tool_call_end(
        "now", {"at": b"a"}, [date(2026, 11, 28), ChatMessage.from_user("hi")], False
    )

    assert ended.data["arguments"] == {"at": "b'a'"}
    assert ended.data["result"][0] == "2026-11-28"
    assert ended.data["result"][1]["content"] == [{"text": "hi"}]


# Sources


def test_a_document_is_a_citation_as_open_webui_shows_it():
    document = Document(
        id="d1", content="Breakfast is at eight", score=0.5, meta={"file_path": "docs/handbook.md", "page": 3, "_x": 1}
    )

    (event,) = source_events([document])

    assert event.to_dict() == {
        "type": "source",
        "data": {
            "source": {"id": "d1", "name": "handbook.md"},
            "document": ["Breakfast is at eight"],
            "metadata": [{"file_path": "docs/handbook.md", "page": 3, "name": "handbook.md", "source": "d1"}],
            "distances": [0.5],
        },
    }


@pytest.mark.parametrize(
    ("meta", "source"),
    [
        ({"title": "House rules", "file_path": "rules.md"}, {"name": "House rules"}),
        ({"url": "https://example.org/a"}, {"name": "https://example.org/a", "url": "https://example.org/a"}),
        ({"name": "A", "link": "http://example.org"}, {"name": "A", "url": "http://example.org"}),
        ({"source": "notes.txt"}, {"name": "notes.txt"}),
        ({"url": 7}, {"name": "7"}),
        ({}, {"name": "Document 1"}),
    ],
)
def test_a_citation_has_the_best_name_that_the_meta_has(meta, source):
    (event,) = source_events([Document(id="d1", content="text", meta=meta)])

    assert event.data["source"] == {"id": "d1", **source}


def test_every_document_is_a_citation_in_its_place():
    chunks = [Document(content=text, meta={"file_path": "a.md"}) for text in ("one", "two")]
    events = source_events([*chunks, {"content": "three", "meta": {"at": date(2026, 1, 1)}}, "four", Document()])

    assert [event.data["document"] for event in events] == [["one"], ["two"], ["three"], ["four"], [""]]
    assert len({event.data["metadata"][0]["source"] for event in events}) == 5
    assert events[2].data["metadata"][0]["at"] == "2026-01-01"
    assert "distances" not in events[0].data


@pytest.mark.parametrize("nothing", [[], None])
def test_no_documents_are_no_citations(nothing):
    assert source_events(nothing) == []


def test_a_pipelines_result_becomes_text():
    assert events.default_on_pipeline_end("done") == "done"
    assert events.default_on_pipeline_end({"llm": {"é": 1}}) == '{"llm": {"é": 1}}'
    assert '"text": "hi"' in events.default_on_pipeline_end([ChatMessage.from_user("hi")])
    assert "object" in events.default_on_pipeline_end(object())
