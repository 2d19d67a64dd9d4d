"""Items: what a wrapper returns or yields, and what each adds to an answer. Pure functions from an item to a ``Piece``.

Haystack's classes are known by name and OpenAI's by shape, for neither is imported here.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hayhooks.errors import PipelineError
from hayhooks.openai.delta import FINISH_REASONS, CallDelta, Delta

# Why a response ended early, in the words of chat completions.
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TEXT_PARTS = frozenset({"text", "output_text", "refusal", None})  # types of the parts of a content array


def to_delta(item: Any) -> Delta:
    """What *item* of a wrapper adds.

    Args:
        item: a string; a ``StreamingChunk`` or ``ChatMessage`` of Haystack's; an event for the UI, ``PipelineEvent`` or
            ``{"type": str, "data": ...}``; a chunk, completion or message of OpenAI's, as object or as dict.

    Raises:
        PipelineError: it is none of these.
    """
    if isinstance(item, str):
        return Delta(item)
    for cls in type(item).__mro__:
        if read := _OF_HAYSTACK.get(cls.__name__):
            return read(item)
    if (event := _event(item)) is not None:
        return Delta(event=event)
    piece = _of_openai(plain) if (plain := _plain(item)) is not None else None
    if piece is None and isinstance(content := getattr(item, "content", None), str):
        return Delta(content)
    if piece is None:
        raise PipelineError(
            f"an answer cannot be made of a {type(item).__module__}.{type(item).__name__}: return or yield str, "
            "StreamingChunk, ChatMessage, PipelineEvent or what has the shape of an OpenAI message or chunk",
            traceback="",
        )
    return piece


def plain_texts(items: Iterable[Any]) -> list[str] | None:
    """What *items* add, if that is text and nothing else that counts as long as no tool calls are pending."""
    texts = []
    for item in items:
        text = item if isinstance(item, str) else _text_of_chunk(item)
        if text is None:
            return None
        if text:
            texts.append(text)
    return texts


def _text_of_chunk(item: Any) -> str | None:
    if type(item).__name__ != "StreamingChunk":
        return None
    meta = item.meta
    more = item.tool_calls or item.tool_call_result or item.reasoning or item.finish_reason
    if more or (meta and ("usage" in meta or "response" in meta)):
        return None
    return item.content  # type: ignore[no-any-return]


def completion_of(item: Any) -> dict[str, Any] | None:
    """*item* as a dict, if it is a whole chat completion of OpenAI's: a wrapper may make all of the answer itself."""
    plain = None if isinstance(item, str) else _plain(item)
    choices = plain.get("choices") if plain else None
    whole = (
        isinstance(choices, list) and choices and all(isinstance(_get(choice, "message"), dict) for choice in choices)
    )
    return plain if whole else None


def response_of(item: Any) -> dict[str, Any] | None:
    """*item* as a dict, if it is a whole response of OpenAI's; as ``completion_of``."""
    plain = None if isinstance(item, str) else _plain(item)
    return plain if plain and plain.get("object") == "response" and isinstance(plain.get("output"), list) else None


def _of_chunk(chunk: Any) -> Delta:
    """Of Haystack's ``StreamingChunk``: content, tool calls, tool result or reasoning, and what comes with it."""
    meta, info, reasoning, result = chunk.meta, chunk.component_info, chunk.reasoning, chunk.tool_call_result
    return Delta(
        chunk.content,
        reasoning.reasoning_text if reasoning else "",
        tuple(CallDelta(c.index, c.id, c.tool_name, c.arguments or "") for c in chunk.tool_calls or ()),
        ((result.origin.id, result.origin.tool_name),) if result else (),
        None,
        chunk.finish_reason if chunk.finish_reason in FINISH_REASONS else None,
        _usage(meta) if meta else None,
        (info.type, info.name) if info else None,
    )


def _of_message(message: Any) -> Delta:
    calls = (
        CallDelta(index, call.id, call.tool_name, json.dumps(call.arguments, ensure_ascii=False), whole=True)
        for index, call in enumerate(message.tool_calls)
    )
    return Delta(
        content="".join(message.texts),
        reasoning="".join(reasoning.reasoning_text for reasoning in message.reasonings),
        calls=tuple(calls),
        results=tuple((result.origin.id, result.origin.tool_name) for result in message.tool_call_results),
        finish_reason=_known(message.meta.get("finish_reason")),
        usage=_usage(message.meta),
    )


_OF_HAYSTACK = {"StreamingChunk": _of_chunk, "ChatMessage": _of_message}


def _event(item: Any) -> Mapping[str, Any] | None:
    """*item* as an event for the UI, if it is one: it has a type and data."""
    if isinstance(item, Mapping):
        return item if isinstance(item.get("type"), str) and "data" in item and "choices" not in item else None
    if isinstance(getattr(item, "type", None), str) and hasattr(item, "data"):
        return {"type": item.type, "data": item.data}
    return None


def _plain(item: Any) -> dict[str, Any] | None:
    """*item* as a dict: it is one, or an object of OpenAI's client."""
    if isinstance(item, Mapping):
        return dict(item)
    dump = getattr(item, "model_dump", None)
    return dump(exclude_unset=True) if callable(dump) and not isinstance(item, type) else None


def _of_openai(item: dict[str, Any]) -> Delta | None:
    """Of what OpenAI's client gives, or a dict like it; None if it is nothing of this."""
    if isinstance(item.get("choices"), list):
        return _of_completion(item)
    if item.get("object") == "response":
        return _of_response(item)
    if isinstance(kind := item.get("type"), str) and kind.startswith("response."):
        return _of_response_event(kind, item)
    return _of_delta(item) if item.keys() & {"content", "tool_calls", "reasoning_content"} else None


def _of_completion(item: dict[str, Any]) -> Delta:
    """Of a chat completion or a chunk of one; of several choices the first is the answer."""
    event = item.get("event")
    piece = Delta(event=event if isinstance(event, Mapping) else None, usage=_usage(item))
    choice = next((choice for choice in item["choices"] if isinstance(choice, Mapping)), None)
    if choice is None:
        return piece
    delta = choice.get("delta") or choice.get("message") or {}
    added = _of_delta(delta) if isinstance(delta, Mapping) else Delta()
    return added._replace(event=piece.event, usage=piece.usage, finish_reason=_known(choice.get("finish_reason")))


def _of_response(response: Mapping[str, Any]) -> Delta:
    output = [item for item in response.get("output") or () if isinstance(item, Mapping)]
    return Delta(
        content="".join(_text(item.get("content")) for item in output if item.get("type") == "message"),
        reasoning="".join(_summary(item) for item in output if item.get("type") == "reasoning"),
        calls=tuple(_response_call(item) for item in output if item.get("type") == "function_call"),
        finish_reason=_INCOMPLETE.get(_get(response.get("incomplete_details"), "reason")),
        usage=_usage(response),
    )


def _of_response_event(kind: str, event: Mapping[str, Any]) -> Delta:
    """Of an event of a streamed response: what it is the first to tell, for later ones tell it again."""
    item, delta = event.get("item"), _string(event.get("delta")) or ""
    if kind in ("response.output_text.delta", "response.refusal.delta"):
        return Delta(delta)
    if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
        return Delta(reasoning=delta)
    if kind == "response.output_item.done" and isinstance(item, Mapping) and item.get("type") == "function_call":
        return Delta(calls=(_response_call(item),))
    if kind in ("response.completed", "response.incomplete") and isinstance(event.get("response"), Mapping):
        whole = _of_response(event["response"])
        return Delta(finish_reason=whole.finish_reason, usage=whole.usage)
    if kind == "response.failed":
        error = _get(_get(event.get("response"), "error"), "message")
        raise PipelineError(_string(error) or "the response failed", traceback="")
    return Delta()


def _response_call(item: Mapping[str, Any]) -> CallDelta:
    id_, name, arguments = (_string(item.get(field)) for field in ("call_id", "name", "arguments"))
    return CallDelta(0, id_, name, arguments or "", whole=True)


def _summary(item: Mapping[str, Any]) -> str:
    parts = item.get("summary") or item.get("content") or ()
    return "".join(text for part in parts if isinstance(text := _get(part, "text"), str))


def _of_delta(delta: Mapping[str, Any]) -> Delta:
    calls = delta.get("tool_calls")
    whole = "role" in delta and not any("index" in call for call in calls or () if isinstance(call, Mapping))
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    return Delta(
        content=_text(delta.get("content")) or _text(delta.get("refusal")),
        reasoning=reasoning if isinstance(reasoning, str) else "",
        calls=tuple(_openai_calls(calls, whole=whole)) if isinstance(calls, list | tuple) else (),
    )


def _openai_calls(calls: Iterable[Any], *, whole: bool) -> Iterator[CallDelta]:
    for position, call in enumerate(calls):
        function = _get(call, "function")
        index, arguments = _get(call, "index"), _get(function, "arguments")
        yield CallDelta(
            index if isinstance(index, int) else position,
            _string(_get(call, "id")),
            _string(_get(function, "name")),
            arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else "",
            whole,
        )


def _text(content: Any) -> str:
    """The text of a message's content: a string, or parts of which some are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (_get(part, "text") or _get(part, "refusal") for part in parts if _get(part, "type") in _TEXT_PARTS)
    return "".join(text for text in texts if isinstance(text, str))


def _usage(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The token counts in a chunk's meta; Haystack's OpenAI Responses generator has them in the response there."""
    usage = meta.get("usage") or _get(meta.get("response"), "usage")
    usage = _plain(usage) if usage else None
    return _counts(usage) if usage else None


def _counts(usage: Mapping[str, Any]) -> dict[str, Any]:
    """*usage* without what is no count."""
    counts: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, Mapping):
            counts[name] = _counts(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[name] = value
    return counts


def _known(reason: Any) -> str | None:
    return reason if isinstance(reason, str) and reason in FINISH_REASONS else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
