"""Reading chat messages, in whichever form they come: OpenAI's dicts, objects like them, Haystack's ``ChatMessage``."""

from collections.abc import Mapping, Sequence
from typing import Any


def get_last_user_message(messages: Sequence[Any]) -> str | None:
    """Return the text of the last message whose role is "user".

    Args:
        messages: dicts or objects with ``role`` and ``content``, oldest first. Content is a string or a content
            array, ``[{"type": "text", "text": str}, ...]``; parts that are no text (images, files) are left out.

    Returns:
        The text, its parts joined by line breaks and "" where there is none; ``None`` without a user message.
    """
    return next((_text(message) for message in reversed(messages) if is_user_message(message)), None)


def is_user_message(message: Any) -> bool:
    """Whether the role of *message*, a dict or an object, is "user"."""
    return bool(_get(message, "role") == "user")


def _text(message: Any) -> str:
    content = _get(message, "content")
    if content is None:
        content = _get(message, "texts")  # a ChatMessage has these instead
    if isinstance(content, str):
        return content
    return "\n".join(part for part in map(_part_text, content or ()) if part)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    return (_get(part, "text") or "") if _get(part, "type") == "text" else ""


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
