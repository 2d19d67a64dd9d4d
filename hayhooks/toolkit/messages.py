"""Read the messages of a chat: OpenAI's dicts, objects with the same attributes, Haystack's ``ChatMessage``.

The input of chat completions is a list of messages with ``content``. That of Responses is a text, or a list of items;
messages are one type of item. A client's message that cannot be read raises ``InvalidMessagesError``, a
``ValueError``: the client gets a 400 that says why.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hayhooks.errors import InvalidMessagesError, safe_str, shortened
from hayhooks.toolkit.conversations import (
    arguments_text,
    call_id,
    get,
    messages_of_items,
    parsed_arguments,
    part_text,
    tool_calls,
    tool_output,
)

if TYPE_CHECKING:
    from haystack.dataclasses import ChatMessage, ToolCall


_ROLES = ("user", "assistant", "system", "developer", "tool", "function")


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
        raise InvalidMessagesError(f"no user message has a text{_unknown_role(messages)}")
    return text


def chat_messages_from_openai(messages: Sequence[Any]) -> "list[ChatMessage]":
    """Convert the messages of a chat completion to Haystack's.

    One odd message must not block a conversation, which its client sends again with every question. So a message
    without content, or of an unknown role, is left out, arguments of a call that are not JSON are read as none, and an
    image or file is left out if its data is elsewhere, or cannot be read and is not in the last message.

    Raises:
        InvalidMessagesError: Haystack cannot represent an image or file of the last message.
    """
    converted = []
    calls: dict[str | None, ToolCall] = {}  # by id
    for number, message in enumerate(messages, 1):
        read = _chat_message(message, calls, is_last=number == len(messages))
        if read is not None:
            converted.append(read)
    return converted


def require_chat_messages(messages: Sequence[Any]) -> "list[ChatMessage]":
    """Return ``chat_messages_from_openai`` of *messages*, if they ask something.

    Raises:
        InvalidMessagesError: there is no message, or a part of the user's last one would be left out.
    """
    converted = chat_messages_from_openai(messages)
    if not converted:
        raise InvalidMessagesError(f"no message has a content and a known role{_unknown_role(messages)}")
    if is_user_message(last := messages[-1]):
        kinds = [
            get(part, "type") for part in _parts(last) if not isinstance(part, str) and _content_part(part) is None
        ]
        if kinds or not converted[-1].is_from("user"):
            what = ", ".join(map(repr, kinds)) or "an empty content"
            raise InvalidMessagesError(
                f"the user's last message has {what}; it can have text, and images and files as base64 data"
            )
    return converted


def _unknown_role(messages: str | Sequence[Any]) -> str:
    """Return the end of an error that names the first unknown role in *messages*, and the known ones."""
    roles = [] if isinstance(messages, str) else [get(message, "role") for message in messages]
    unknown = next((role for role in roles if isinstance(role, str) and role not in _ROLES), None)
    return "" if unknown is None else f": {shortened(unknown)!r} is none of the roles {', '.join(_ROLES)}"


def is_user_message(message: Any) -> bool:
    """Return whether the role of *message*, a dict or an object, is "user"."""
    return bool(get(message, "role") == "user")


def get_content(message: Any) -> str:
    """Return the text of *message* as ``get_last_user_message`` does, "" if it has none."""
    content = get(message, "content")
    if content is None:
        content = get(message, "texts")  # of a ChatMessage
    if isinstance(content, str):
        return content
    return "\n".join(part for part in map(part_text, content or ()) if part)


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


def chat_messages_from_openai_response(
    input_items: str | Sequence[Any], instructions: str | None = None
) -> "list[ChatMessage]":
    """Convert the input of an OpenAI response to Haystack's messages.

    Messages, ``function_call`` and ``function_call_output`` are converted, the text and the calls of a turn to one
    message. *instructions*, a field of the request, become a system message, the first one. Other items are left out;
    else as ``chat_messages_from_openai``.
    """
    return chat_messages_from_openai(messages_of_items(input_items, instructions))


def _chat_message(message: Any, calls: "dict[str | None, ToolCall]", *, is_last: bool) -> "ChatMessage | None":
    """Convert *message*, None if there is nothing in it; *calls* are those of earlier messages."""
    # Importing Haystack takes a second, and the command line imports this module.
    from haystack.dataclasses import ChatMessage, ToolCall  # noqa: PLC0415

    if isinstance(message, ChatMessage):
        return message
    name = get(message, "name")
    match get(message, "role"):
        case "user":
            parts = [part for part in (_content_part(part, strict=is_last) for part in _parts(message)) if part]
            if all(isinstance(part, str) for part in parts):
                return ChatMessage.from_user("\n".join(parts), name=name) if parts else None
            return ChatMessage.from_user(content_parts=parts, name=name)
        case "assistant":
            made = [
                ToolCall(
                    get(call["function"], "name") or "function",
                    parsed_arguments(arguments_text(call["function"])),
                    id=call["id"],
                )
                for call in tool_calls(message)
            ]
            calls.update((call.id, call) for call in made)
            text, refusal = get_content(message), _refusal(message)
            if not (text or made or refusal):
                return None
            meta = {"refusal": refusal} if refusal else None  # where Haystack looks for it
            return ChatMessage.from_assistant(text or None, meta=meta, name=name, tool_calls=made or None)
        case "system" | "developer" if text := get_content(message):
            return ChatMessage.from_system(text, name=name)
        case "tool" | "function":
            id_ = call_id(message)
            origin = calls.get(id_) or ToolCall(name or "function", {}, id=id_)
            return ChatMessage.from_tool(tool_output(get(message, "content")), origin)
    return None


def _content_part(part: Any, *, strict: bool = False) -> Any:
    """Convert a part of a user's content to a text, an image or a file; None if its data is elsewhere.

    A part that Haystack cannot represent is None too, or with *strict* an InvalidMessagesError.
    """
    from haystack.dataclasses import FileContent, ImageContent  # noqa: PLC0415 - as above

    try:
        match get(part, "type"):
            case "image_url":
                image = get(part, "image_url")
                data = _data_url(image if isinstance(image, str) else get(image, "url"))
                return data and ImageContent(data[1], data[0], detail=get(image, "detail") or None)
            case "file" if data := get(get(part, "file"), "file_data"):
                mime_type, base64 = _data_url(data) or (None, data)
                return FileContent(base64, mime_type, get(get(part, "file"), "filename"))
        return part_text(part) or None
    except Exception as error:  # its fields may be of any type, and its images of any content
        if strict:
            raise InvalidMessagesError(safe_str(error) or type(error).__name__) from error
        return None


def _data_url(url: str) -> tuple[str, str] | None:
    """Split a ``data:`` URL into its MIME type and base64 text; None if *url* is another one."""
    head, comma, base64 = url.partition(",")
    return (head[5:].partition(";")[0], base64) if comma and head.startswith("data:") else None


def _refusal(message: Any) -> str:
    """Return the model's refusal, a field of the message or a part of its content."""
    refusals = [get(message, "refusal"), *(get(part, "refusal") for part in _parts(message))]
    return "\n".join(dict.fromkeys(text for text in refusals if text and isinstance(text, str)))


def _is_file(part: Mapping[str, Any]) -> bool:
    match part.get("type"):
        case "input_file":
            return any(part.get(key) for key in ("file_id", "file_url", "file_data"))
        case "input_image":
            return bool(part.get("file_id"))
    return False


def _parts(item: Any) -> Sequence[Any]:
    content = get(item, "content")
    return [content] if isinstance(content, str) else content or ()
