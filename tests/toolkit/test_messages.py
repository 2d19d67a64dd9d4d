from types import SimpleNamespace

import pytest
from haystack.dataclasses import ChatMessage, ToolCall

from hayhooks.errors import InvalidMessagesError
from hayhooks.toolkit.messages import (
    chat_messages_from_openai,
    chat_messages_from_openai_response,
    get_input_files,
    get_last_user_input_text,
    get_last_user_message,
    is_user_message,
    require_chat_messages,
    require_user_text,
)

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "first"},
    {"role": "user", "content": "second"},
    {"role": "assistant", "content": "answer"},
]


def test_the_last_user_message_is_found_behind_an_answer():
    assert get_last_user_message(CONVERSATION) == "second"


@pytest.mark.parametrize("messages", [[], CONVERSATION[:1], [{"content": "nobody's"}]])
def test_without_a_user_message_there_is_none(messages):
    assert get_last_user_message(messages) is None


def test_the_text_parts_of_a_content_array_are_joined_and_images_left_out():
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
        {"type": "text", "text": "this?"},
    ]

    assert get_last_user_message([{"role": "user", "content": parts}]) == "What is\nthis?"


@pytest.mark.parametrize("content", [None, "", [], [{"type": "image_url"}], [{"type": "text", "text": None}]])
def test_a_user_message_without_text_is_an_empty_text(content):
    assert get_last_user_message([*CONVERSATION, {"role": "user", "content": content}]) == ""


def test_objects_are_read_as_dicts_are():
    message = SimpleNamespace(role="user", content=[SimpleNamespace(type="text", text="hello"), "there"])

    assert get_last_user_message([message]) == "hello\nthere"


def test_messages_of_haystack_are_read_too():
    assert get_last_user_message([ChatMessage.from_user("hello"), ChatMessage.from_assistant("hi")]) == "hello"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": ""}, True),
        ({"role": "assistant", "content": ""}, False),
        ({}, False),
        (SimpleNamespace(role="user"), True),
        (ChatMessage.from_user("hello"), True),
        (ChatMessage.from_system("hello"), False),
        (None, False),
    ],
)
def test_only_the_role_makes_a_user_message(message, expected):
    assert is_user_message(message) is expected


QUESTION = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is in it?"}]}
DATA_URL = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    ("input_items", "expected"),
    [
        ("hello", "hello"),
        ([], None),
        ([QUESTION], "What is in it?"),
        ([{"role": "user", "content": "short"}], "short"),
        ([QUESTION, {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"}], "What is in it?"),
        ([QUESTION, {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}], "What is in it?"),
        ([QUESTION, {"role": "assistant", "content": "no"}], "What is in it?"),
        ([{"role": "assistant", "content": "no"}], None),
    ],
)
def test_the_last_text_of_the_user_in_a_responses_input(input_items, expected):
    assert get_last_user_input_text(input_items) == expected


def test_the_files_of_a_responses_input_are_those_that_users_sent():
    by_id = {"type": "input_file", "file_id": "file-1", "filename": "a.pdf"}
    inline = {"type": "input_file", "file_data": "aGVsbG8=", "filename": "b.txt"}
    image = {"type": "input_image", "file_id": "file-2"}
    others = [
        {"type": "input_image", "image_url": DATA_URL},
        {"type": "input_file"},
        {"type": "input_text", "text": "x"},
    ]
    items = [
        {"role": "user", "content": [by_id, *others]},
        {"role": "assistant", "content": [by_id]},
        {"role": "user", "content": "no file"},
        {"role": "user", "content": [inline, image]},
    ]

    assert get_input_files(items) == [by_id, inline, image]
    assert get_input_files("text") == []


def test_the_input_of_a_response_becomes_haystacks_messages():
    messages = chat_messages_from_openai_response(
        [
            {"role": "developer", "content": "Be brief."},
            QUESTION,
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "look", "arguments": '{"at": "it"}'},
            {"type": "function_call", "call_id": "2", "name": "ask", "arguments": "no JSON"},
            {"type": "function_call_output", "call_id": "1", "output": "a cat"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "a dog"}]},
            {"type": "function_call_output", "call_id": "3", "output": {"a": 1}},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Pets."}]},
            {"role": "user", "content": ""},
        ]
    )

    look, ask = ToolCall("look", {"at": "it"}, id="1"), ToolCall("ask", {}, id="2")
    assert messages == [
        ChatMessage.from_system("Be brief."),
        ChatMessage.from_user("What is in it?"),
        ChatMessage.from_assistant(tool_calls=[look, ask]),
        ChatMessage.from_tool("a cat", look),
        ChatMessage.from_tool("a dog", ask),
        ChatMessage.from_tool('{"a": 1}', ToolCall("function", {}, id="3")),
        ChatMessage.from_assistant("Pets."),
    ]


def test_calls_at_the_end_of_a_responses_input_are_kept():
    (message,) = chat_messages_from_openai_response([{"type": "function_call", "id": "1", "name": "f"}])

    assert message.tool_calls == [ToolCall("f", {}, id="1")]


def test_a_text_is_a_users_message():
    assert chat_messages_from_openai_response("hello") == [ChatMessage.from_user("hello")]
    assert chat_messages_from_openai_response("") == []


def test_inline_images_and_files_are_in_the_message():
    """Images and files that are in the input are in the message and references are not."""
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": DATA_URL, "detail": "low"},
        {"type": "input_image", "image_url": "https://example.org/cat.png"},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "input_file", "file_data": "data:text/plain;base64,aGVsbG8=", "filename": "a.txt"},
    ]
    (message,) = chat_messages_from_openai_response([{"role": "user", "content": content}])

    assert message.text == "look"
    assert [(image.base64_image, image.mime_type, image.detail) for image in message.images] == [
        ("iVBORw0KGgo=", "image/png", "low")
    ]
    assert [(file.base64_data, file.mime_type, file.filename) for file in message.files] == [
        ("aGVsbG8=", "text/plain", "a.txt")
    ]


def test_an_item_that_haystack_refuses_is_a_value_error_of_the_toolkit():
    image = {"type": "input_image", "image_url": 7}
    with pytest.raises(InvalidMessagesError):
        chat_messages_from_openai_response([{"role": "user", "content": [image]}])


@pytest.mark.parametrize("read", [require_user_text, require_chat_messages])
def test_an_unknown_role_is_told_where_no_message_is_left(read):
    with pytest.raises(InvalidMessagesError, match="'usr' is none of the roles user, assistant, system"):
        read([{"role": "usr", "content": "x"}])


def test_messages_without_user_text_raise_value_error():
    """Messages without a text of the user are a value error of the toolkit."""
    with pytest.raises(InvalidMessagesError, match="no user message has a text"):
        require_user_text([{"role": "system", "content": "x"}])


@pytest.mark.parametrize("read", [get_last_user_message, chat_messages_from_openai, chat_messages_from_openai_response])
def test_what_is_no_list_of_messages_is_a_bug_of_the_caller(read):
    with pytest.raises(TypeError):
        read(None)


def test_a_part_of_an_odd_type_is_no_file():
    assert get_input_files([{"role": "user", "content": [{"type": ["input_file"], "file_id": "f"}]}]) == []


def test_instructions_are_the_first_message_of_a_response():
    read = chat_messages_from_openai_response([{"role": "developer", "content": "Rhyme."}, QUESTION], instructions="Be")

    assert [(message.role.value, message.text) for message in read] == [
        ("system", "Be"),
        ("system", "Rhyme."),
        ("user", "What is in it?"),
    ]
    assert chat_messages_from_openai_response("hi", instructions=None) == [ChatMessage.from_user("hi")]


CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "it"}'}}
CUT_OFF = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "i'}}
LOOK = ToolCall("look", {"at": "it"}, id="1")
LAST = {"role": "user", "content": "and now?"}
REMOTE_IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}}
BROKEN_IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}


@pytest.mark.parametrize(
    ("odd", "expected"),
    [
        ([{"role": "user", "content": ""}], []),
        ([{"role": "user", "content": None}], []),
        ([{"role": "user", "content": []}], []),
        ([{"role": "system", "content": ""}], []),
        ([{"role": "assistant", "content": None}], []),
        ([{"role": "assistant", "content": None, "tool_calls": []}], []),
        ([{"role": "assistant"}], []),
        ([{"role": "nobody", "content": "x"}], []),
        ([{}], []),
        ([None], []),
        ([{"role": "user", "content": [REMOTE_IMAGE]}], []),
        (
            [{"role": "user", "content": [BROKEN_IMAGE, "hi"]}],
            [ChatMessage.from_user("hi")],
        ),
        (
            [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": ""}],
            [ChatMessage.from_assistant(tool_calls=[LOOK]), ChatMessage.from_tool("", LOOK)],
        ),
        (
            [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": None}],
            [ChatMessage.from_assistant(tool_calls=[LOOK]), ChatMessage.from_tool("", LOOK)],
        ),
        (
            [{"role": "tool", "tool_call_id": "7", "content": [{"type": "text", "text": "a"}]}],
            [ChatMessage.from_tool("a", ToolCall("function", {}, id="7"))],
        ),
        (
            [{"role": "assistant", "content": "x", "tool_calls": [CUT_OFF]}],
            [ChatMessage.from_assistant("x", tool_calls=[ToolCall("look", {}, id="1")])],
        ),
        (
            [
                {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "it"}'}},
                {"role": "function", "name": "look", "content": "a cat"},
            ],
            [
                ChatMessage.from_assistant(tool_calls=[ToolCall("look", {"at": "it"}, id="look")]),
                ChatMessage.from_tool("a cat", ToolCall("look", {"at": "it"}, id="look")),
            ],
        ),
        (
            [{"role": "assistant", "content": None, "refusal": "No."}],
            [ChatMessage.from_assistant(meta={"refusal": "No."})],
        ),
        ([{"role": "user", "content": "x", "name": "Ann"}], [ChatMessage.from_user("x", name="Ann")]),
        ([ChatMessage.from_user("x")], [ChatMessage.from_user("x")]),
    ],
)  # fmt: skip
def test_an_odd_old_message_does_not_block_a_conversation(odd, expected):
    read = chat_messages_from_openai([*odd, LAST])

    assert read == [*expected, ChatMessage.from_user("and now?")]
    assert require_chat_messages([*odd, LAST]) == read


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has an empty content"),
        ([REMOTE_IMAGE, "what is it?"], "'image_url'"),
        ([{"type": "input_audio", "input_audio": {}}, "what is it?"], "'input_audio'"),
        ([BROKEN_IMAGE], "base64 string is not valid"),
    ],
)
def test_what_a_last_message_asks_is_not_lost_silently(content, reason):
    with pytest.raises(InvalidMessagesError, match=reason):
        require_chat_messages([LAST, {"role": "assistant", "content": "x"}, {"role": "user", "content": content}])


def test_images_and_files_of_a_chat_are_in_the_message():
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,aGVsbG8=", "filename": "a.txt"}},
    ]
    (message,) = require_chat_messages([{"role": "user", "content": content}])

    assert (message.text, message.images[0].detail, message.files[0].filename) == ("look", "low", "a.txt")
