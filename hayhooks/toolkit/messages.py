"""Reading messages, in whichever form they come: OpenAI's dicts, objects like them, Haystack's ``ChatMessage``.

Chat completions have messages with ``content``; Responses have a text, or items of which messages are one type.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack.dataclasses import ChatMessage

_TEXTS = ("text", "input_text", "output_text")  # types of content parts
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def get_last_user_message(messages: Sequence[Any]) -> str | None:
    """Return the text of the last message whose role is "user".

    Args:
        messages: dicts or objects with ``role`` and ``content``, oldest first. Content is a string or a content
            array, ``[{"type": "text", "text": str}, ...]``; parts that are no text (images, files) are left out.

    Returns:
        The text, its parts joined by line breaks and "" where there is none; ``None`` without a user message.
    """
    return next((get_content(message) for message in reversed(messages) if is_user_message(message)), None)


def require_user_text(messages: Sequence[Any]) -> str:
    """The last text of the user in the messages of a chat, or in the items of a response.

    Raises:
        ValueError: there is none.
    """
    text = get_last_user_input_text(messages)
    if not text:
        raise ValueError("there is no text of the user's in it")
    return text


def chat_messages(messages: Sequence[dict[str, Any]]) -> "list[ChatMessage]":
    """Make Haystack's messages of those of a chat completion.

    Raises:
        ValueError: one has what Haystack has no place for.
    """
    # Haystack takes a second to import, and the command line imports this.
    from haystack.dataclasses import ChatMessage  # noqa: PLC0415

    return [ChatMessage.from_openai_dict_format(message) for message in messages]


def is_user_message(message: Any) -> bool:
    """Whether the role of *message*, a dict or an object, is "user"."""
    return bool(_get(message, "role") == "user")


def get_content(message: Any) -> str:
    """Return the text of *message*, "" if it has none; see ``get_last_user_message``."""
    content = _get(message, "content")
    if content is None:
        content = _get(message, "texts")  # a ChatMessage has these instead
    if isinstance(content, str):
        return content
    return "\n".join(part for part in map(_part_text, content or ()) if part)


def get_last_user_input_text(input_items: str | Sequence[Any]) -> str | None:
    """Return the last text that the user wrote, of the input of an OpenAI response.

    Args:
        input_items: the text, or the items, oldest first; messages whose role is "user" are looked at.

    Returns:
        The text parts of the last user message that has some, joined by line breaks; ``None`` if there is none.
    """
    if isinstance(input_items, str):
        return input_items
    texts = (get_content(item) for item in reversed(input_items) if is_user_message(item))
    return next((text for text in texts if text), None)


def get_input_files(input_items: str | Sequence[Any]) -> list[dict[str, Any]]:
    """Return the files in the input of an OpenAI response, as the client sent them, oldest first.

    Returns:
        The ``input_file`` parts of user messages, each with a ``file_id``, ``file_url`` or ``file_data``, and the
        ``input_image`` parts that have a ``file_id``.
    """
    if isinstance(input_items, str):
        return []
    return [
        dict(part)
        for item in input_items
        if is_user_message(item)
        for part in _parts(item)
        if isinstance(part, Mapping) and any(part.get(key) for key in _FILE_KEYS.get(part.get("type"), ()))  # type: ignore[arg-type]
    ]


def chat_messages_from_openai_response(input_items: str | Sequence[Any]) -> "list[ChatMessage]":
    """Make Haystack's messages of the input of an OpenAI response.

    Args:
        input_items: the text, or the items: messages, ``function_call`` and ``function_call_output``. Others, as
            ``reasoning``, are left out, and so are images and files that are not in the item itself: what a
            ``file_id`` means only the wrapper knows.

    Returns:
        A message each, without those that are empty; calls in a row are one message of the assistant.
    """
    # Haystack takes a second to import, and the command line imports this.
    from haystack.dataclasses import ChatMessage, ToolCall  # noqa: PLC0415

    if isinstance(input_items, str):
        return [ChatMessage.from_user(input_items)] if input_items else []
    messages: list[ChatMessage] = []
    calls: dict[Any, ToolCall] = {}  # by id
    row: list[ToolCall] = []  # calls that came one after the other
    for item in input_items:
        kind = _get(item, "type")
        if kind == "function_call":
            call = ToolCall(_get(item, "name") or "function", _arguments(item), id=_call_id(item))
            calls[call.id] = call
            row.append(call)
            continue
        if row:
            messages.append(ChatMessage.from_assistant(tool_calls=row))
            row = []
        if kind == "function_call_output":
            origin = calls.get(_call_id(item)) or ToolCall("function", {}, id=_call_id(item))
            messages.append(ChatMessage.from_tool(_output(item), origin))
        elif kind in ("message", None):
            messages.extend(_message(item))
    return [*messages, ChatMessage.from_assistant(tool_calls=row)] if row else messages


_FILE_KEYS = {"input_file": ("file_id", "file_url", "file_data"), "input_image": ("file_id",)}


def _message(item: Any) -> "Iterator[ChatMessage]":
    from haystack.dataclasses import ChatMessage  # noqa: PLC0415 - as above

    text = get_content(item)
    match _ROLES.get(_get(item, "role")):
        case "user":
            parts = [content for part in _parts(item) if (content := _content(part))]
            if any(not isinstance(part, str) for part in parts):
                yield ChatMessage.from_user(content_parts=parts)
            elif text:
                yield ChatMessage.from_user(text)
        case "assistant" if text:
            yield ChatMessage.from_assistant(text)
        case "system" if text:
            yield ChatMessage.from_system(text)


def _content(part: Any) -> Any:
    """What Haystack has for a content part: a text, an image or a file; ``None`` if that is not in it."""
    from haystack.dataclasses import FileContent, ImageContent  # noqa: PLC0415 - as above

    image = _get(part, "image_url") if _get(part, "type") == "input_image" else None
    if image and (data := _data_url(image)):
        return ImageContent(data[1], data[0], detail=_get(part, "detail") or None)
    file = _get(part, "file_data") if _get(part, "type") == "input_file" else None
    if file:
        mime_type, base64 = _data_url(file) or (None, file)
        return FileContent(base64, mime_type, _get(part, "filename"))
    return _part_text(part) or None


def _data_url(url: str) -> tuple[str, str] | None:
    """MIME type and base64 text of a ``data:`` URL."""
    head, comma, base64 = url.partition(",")
    return (head[5:].partition(";")[0], base64) if comma and head.startswith("data:") else None


def _arguments(item: Any) -> dict[str, Any]:
    arguments = _get(item, "arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:  # a model wrote it; the call has its place in the conversation all the same
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _call_id(item: Any) -> str | None:
    call_id: str | None = _get(item, "call_id") or _get(item, "id")
    return call_id


def _output(item: Any) -> str:
    output = _get(item, "output")
    if isinstance(output, str):
        return output
    texts = [_part_text(part) for part in output] if isinstance(output, list) else []
    return "\n".join(texts) if texts and all(texts) else json.dumps(output)


def _parts(item: Any) -> Sequence[Any]:
    content = _get(item, "content")
    return [content] if isinstance(content, str) else content or ()


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return (_get(part, "text") or "") if _get(part, "type") in _TEXTS else ""


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
