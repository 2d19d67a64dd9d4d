"""Read the messages of a chat: OpenAI's dicts, objects with the same attributes, Haystack's ``ChatMessage``.

The input of chat completions is a list of messages with ``content``. That of Responses is a text, or a list of items;
messages are one type of item. A client's message that cannot be read raises ``InvalidMessagesError``, a
``ValueError``: the client gets a 400 that says why.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hayhooks.errors import InvalidMessagesError, safe_str

if TYPE_CHECKING:
    from haystack.dataclasses import ChatMessage

_TEXTS = ("text", "input_text", "output_text")  # types of content parts
_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def get_last_user_message(messages: Sequence[Any]) -> str | None:
    """Return the text of the last message whose role is "user".

    Messages are dicts or objects with ``role`` and ``content``, oldest first. Text parts are joined by line breaks,
    images and files are left out; "" if there is no text, ``None`` without a user message.
    """
    return next((get_content(message) for message in reversed(messages) if is_user_message(message)), None)


def require_user_text(messages: Sequence[Any]) -> str:
    """Return the last text of the user in the messages of a chat, or in the input items of a response.

    Raises:
        InvalidMessagesError: there is none.
    """
    text = get_last_user_input_text(messages)
    if not text:
        raise InvalidMessagesError("no user message has a text")
    return text


def chat_messages(messages: Sequence[dict[str, Any]]) -> "list[ChatMessage]":
    """Convert the messages of a chat completion to Haystack's.

    Raises:
        InvalidMessagesError: Haystack cannot represent a message; the cause is Haystack's error.
    """
    # Importing Haystack takes a second, and the command line imports this module.
    from haystack.dataclasses import ChatMessage  # noqa: PLC0415

    converted = []
    for message in messages:
        try:
            converted.append(ChatMessage.from_openai_dict_format(message))
        except Exception as error:  # for a malformed message it raises any type: KeyError, TypeError ...
            raise InvalidMessagesError(safe_str(error) or type(error).__name__) from error
    return converted


def is_user_message(message: Any) -> bool:
    """Return whether the role of *message*, a dict or an object, is "user"."""
    return bool(_get(message, "role") == "user")


def get_content(message: Any) -> str:
    """Return the text of *message* as ``get_last_user_message`` does, "" if it has none."""
    content = _get(message, "content")
    if content is None:
        content = _get(message, "texts")  # of a ChatMessage
    if isinstance(content, str):
        return content
    return "\n".join(part for part in map(_part_text, content or ()) if part)


def get_last_user_input_text(input_items: str | Sequence[Any]) -> str | None:
    """Return the last text of the user in the input of an OpenAI response.

    Text parts are joined by line breaks; ``None`` if no user message has text.
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
    parts = [part for item in input_items if is_user_message(item) for part in _parts(item)]
    return [dict(part) for part in parts if isinstance(part, Mapping) and _is_file(part)]


def chat_messages_from_openai_response(input_items: str | Sequence[Any]) -> "list[ChatMessage]":
    """Convert the input of an OpenAI response to Haystack's messages.

    Messages, ``function_call`` and ``function_call_output`` are converted, consecutive calls to one message. Other
    items are left out, and so are images and files by ``file_id``, whose meaning only the wrapper knows.

    Raises:
        InvalidMessagesError: Haystack cannot represent an item; the cause is its error.
    """
    # Importing Haystack takes a second, and the command line imports this module.
    from haystack.dataclasses import ChatMessage, ToolCall  # noqa: PLC0415

    if isinstance(input_items, str):
        return [ChatMessage.from_user(input_items)] if input_items else []
    messages: list[ChatMessage] = []
    calls: dict[Any, ToolCall] = {}  # by id
    row: list[ToolCall] = []  # consecutive calls
    for item in input_items:
        kind = _get(item, "type")
        if row and kind != "function_call":
            messages.append(ChatMessage.from_assistant(tool_calls=row))
            row = []
        try:
            if kind == "function_call":
                call = ToolCall(_get(item, "name") or "function", _arguments(item), id=_call_id(item))
                calls[call.id] = call
                row.append(call)
            elif kind == "function_call_output":
                origin = calls.get(_call_id(item)) or ToolCall("function", {}, id=_call_id(item))
                messages.append(ChatMessage.from_tool(_output(item), origin))
            elif kind in ("message", None):
                messages.extend(_message(item))
        except Exception as error:  # the fields of an item may be of any type, and its images of any content
            raise InvalidMessagesError(safe_str(error) or type(error).__name__) from error
    return [*messages, ChatMessage.from_assistant(tool_calls=row)] if row else messages


def _message(item: Any) -> "Iterator[ChatMessage]":
    from haystack.dataclasses import ChatMessage, FileContent, ImageContent  # noqa: PLC0415 - as above

    def content(part: Any) -> Any:
        """Convert a part to a text, an image or a file; None if its data is elsewhere."""
        image = _get(part, "image_url") if _get(part, "type") == "input_image" else None
        if image and (data := _data_url(image)):
            return ImageContent(data[1], data[0], detail=_get(part, "detail") or None)
        file = _get(part, "file_data") if _get(part, "type") == "input_file" else None
        if file:
            mime_type, base64 = _data_url(file) or (None, file)
            return FileContent(base64, mime_type, _get(part, "filename"))
        return _part_text(part) or None

    text = get_content(item)
    match _ROLES.get(_get(item, "role")):
        case "user":
            parts = [converted for part in _parts(item) if (converted := content(part))]
            if any(not isinstance(part, str) for part in parts):
                yield ChatMessage.from_user(content_parts=parts)
            elif text:
                yield ChatMessage.from_user(text)
        case "assistant" if text:
            yield ChatMessage.from_assistant(text)
        case "system" if text:
            yield ChatMessage.from_system(text)


def _data_url(url: str) -> tuple[str, str] | None:
    """Split a ``data:`` URL into its MIME type and base64 text; None if *url* is another one."""
    head, comma, base64 = url.partition(",")
    return (head[5:].partition(";")[0], base64) if comma and head.startswith("data:") else None


def _arguments(item: Any) -> dict[str, Any]:
    arguments = _get(item, "arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:  # a model wrote it; the call stays part of the conversation
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


def _is_file(part: Mapping[str, Any]) -> bool:
    match part.get("type"):
        case "input_file":
            return any(part.get(key) for key in ("file_id", "file_url", "file_data"))
        case "input_image":
            return bool(part.get("file_id"))
    return False


def _parts(item: Any) -> Sequence[Any]:
    content = _get(item, "content")
    return [content] if isinstance(content, str) else content or ()


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return (_get(part, "text") or "") if _get(part, "type") in _TEXTS else ""


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
