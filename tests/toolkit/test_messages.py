from types import SimpleNamespace

import pytest
from haystack.dataclasses import ChatMessage

from hayhooks.toolkit.messages import get_last_user_message, is_user_message

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
