"""The messages of chat completions and the input items of Responses are translated to each other."""

from typing import Any

from hayhooks.toolkit.conversations import items_of_messages, messages_of_items

DATA_URL = "data:image/png;base64,iVBORw0KGgo="

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}},
            {"type": "file", "file": {"file_id": "file-1"}},
            {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        ],
    },
    {
        "role": "assistant",
        "content": "I look.",
        "reasoning_content": "An image.",
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}},
            {"id": "2", "type": "function", "function": {"name": "ask", "arguments": "{}"}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "a cat"},
    {"role": "tool", "tool_call_id": "2", "content": ""},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "3", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "3", "content": "a dog"},
    {"role": "assistant", "content": "Pets."},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Thanks."},
]

ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "system", "content": "Be brief."},
    {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": DATA_URL, "detail": "low"},
            {"type": "input_file", "file_id": "file-1"},
            {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        ],
    },
    {"type": "reasoning", "id": "rs_2", "summary": [{"type": "summary_text", "text": "An image."}]},
    {"type": "message", "role": "assistant", "content": "I look."},
    {"type": "function_call", "call_id": "1", "name": "look", "arguments": '{"at": "it"}'},
    {"type": "function_call", "call_id": "2", "name": "ask", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "1", "output": "a cat"},
    {"type": "function_call_output", "call_id": "2", "output": ""},
    {"type": "function_call", "call_id": "3", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "3", "output": "a dog"},
    {"type": "message", "role": "assistant", "content": "Pets."},
    {"type": "message", "role": "assistant", "content": "Two."},
    {"type": "message", "role": "user", "content": "Thanks."},
]


def test_messages_become_items_and_items_messages():
    assert items_of_messages(MESSAGES) == ITEMS
    assert messages_of_items(ITEMS) == MESSAGES


def test_instructions_come_first():
    assert messages_of_items("hi", "Be") == [{"role": "system", "content": "Be"}, {"role": "user", "content": "hi"}]
    assert messages_of_items([{"role": "user", "content": "hi"}]) == [{"role": "user", "content": "hi"}]


def test_a_text_alone_is_a_string():
    """Most wrappers expect one, and some clients send a list of parts for every text."""
    output = {"type": "output_text", "text": "a", "annotations": []}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [output]},
    ]

    assert messages_of_items(items) == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_items_that_chats_do_not_have_are_left_out():
    items = [
        {"type": "item_reference", "id": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"role": "user", "content": "hi"},
    ]

    assert messages_of_items(items) == [{"role": "user", "content": "hi"}]


def test_reasoning_belongs_to_the_turn_that_it_begins():
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    call = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}

    answered, user, next_turn = messages_of_items([reasoning, call, {"role": "user", "content": "x"}, call])
    assert (answered["reasoning_content"], answered["content"]) == ("hm", None)
    assert "reasoning_content" not in next_turn
    assert messages_of_items([reasoning, {"role": "user", "content": "x"}]) == [user]


def test_outputs_of_tools_are_texts():
    outputs = [[{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}], {"x": 1}, None, "t"]
    items = [{"type": "function_call_output", "call_id": "1", "output": output} for output in outputs]

    assert [message["content"] for message in messages_of_items(items)] == ["a\nb", '{"x": 1}', "", "t"]


def test_the_form_that_preceded_tool_calls_is_read():
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": {"at": "it"}}},
        {"role": "function", "name": "look", "content": "a cat"},
    ]

    assert items_of_messages(messages) == [
        {"type": "function_call", "call_id": "look", "name": "look", "arguments": '{"at": "it"}'},
        {"type": "function_call_output", "call_id": "look", "output": "a cat"},
    ]


def test_a_refusal_stays_one():
    part = {"type": "refusal", "refusal": "No."}

    assert items_of_messages([{"role": "assistant", "content": None, "refusal": "No."}])[0]["content"] == "No."
    assert items_of_messages([{"role": "assistant", "content": [part]}])[0]["content"] == [part]
    assert messages_of_items([{"role": "assistant", "content": [part]}])[0]["content"] == [part]
