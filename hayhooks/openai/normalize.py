"""Normalize a wrapper's answer: pure functions from an item to a ``Delta``.

Haystack's classes are recognised by name and OpenAI's by shape, because neither library is imported here.
"""

import json
from collections.abc import Iterable, Mapping
from inspect import isawaitable, iscoroutine
from typing import Any

from hayhooks.errors import PipelineError
from hayhooks.kernel.isolation import with_public_names
from hayhooks.openai.delta import FINISH_REASONS, CallDelta, Delta

# Why a response is incomplete: the reason in Responses -> chat completions' finish reason.
_INCOMPLETE = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TEXT_PARTS = frozenset({"text", "output_text", "refusal", None})  # types of the parts of a content array


def to_delta(item: Any) -> Delta:
    """Convert a string, Haystack's or OpenAI's object, or an event for the UI; None adds nothing."""
    if isinstance(item, str) or item is None:
        return Delta(item or "")
    for cls in type(item).__mro__:
        if read := _HAYSTACK_READERS.get(cls.__name__):
            return read(item)
    if (event := _event(item)) is not None:
        return Delta(event=event)
    plain = _plain(item) or {}
    if isinstance(plain.get("choices"), list):
        return _completion_delta(plain)
    if plain.get("object") == "response":
        return _response_delta(plain)
    if isinstance(kind := plain.get("type"), str) and kind.startswith("response."):
        return _event_delta(kind, plain)
    if plain.keys() & {"content", "tool_calls", "reasoning_content"}:
        return _choice_delta(plain)
    if isinstance(content := getattr(item, "content", None), str):
        return Delta(content)
    raise unusable_error(item)


def unusable_error(item: Any) -> PipelineError:
    """Return the error for an *item* that is no part of an answer."""
    kind = with_public_names(f"{type(item).__module__}.{type(item).__name__}").removeprefix("builtins.")
    if isawaitable(item):
        kind += " (forgot await?)"
    if iscoroutine(item):
        item.close()  # this error says that nobody has awaited it: Python need not
    found = "None (forgot return?)" if item is None else f"a {kind}"
    return PipelineError(
        f"an answer cannot be made of {found}: return or yield str, StreamingChunk, ChatMessage, PipelineEvent, or a "
        "message or chunk of OpenAI's shape, in callbacks such as on_component_end too",
        traceback="",
    )


def plain_texts(items: Iterable[Any]) -> list[str] | None:
    """Return the texts of *items*; None if one adds more, even a finish reason.

    The fast path of ``to_delta``. Must not be used while tool calls are pending: they depend on all chunks' sources.
    """
    texts = []
    for item in items:
        text = item
        if not isinstance(item, str):
            if type(item).__name__ != "StreamingChunk":
                return None
            meta = item.meta
            if item.tool_calls or item.tool_call_result or item.reasoning or item.finish_reason:
                return None
            if meta and ("usage" in meta or "response" in meta):
                return None
            text = item.content
        if text:
            texts.append(text)
    return texts


def completion_of(item: Any) -> dict[str, Any] | None:
    """Return *item* as a dict if it is a whole chat completion, else None."""
    plain = None if isinstance(item, str) else _plain(item)
    choices = plain.get("choices") if plain else None
    if not isinstance(choices, list) or not choices:
        return None
    return plain if all(isinstance(_get(choice, "message"), dict) for choice in choices) else None


def response_of(item: Any) -> dict[str, Any] | None:
    """Return *item* as a dict if it is a whole response, else None."""
    plain = None if isinstance(item, str) else _plain(item)
    return plain if plain and plain.get("object") == "response" and isinstance(plain.get("output"), list) else None


def _chunk_delta(chunk: Any) -> Delta:
    meta, info, reasoning, result = chunk.meta, chunk.component_info, chunk.reasoning, chunk.tool_call_result
    return Delta(
        content=chunk.content,
        reasoning=reasoning.reasoning_text if reasoning else "",
        calls=tuple(CallDelta(c.index, c.id, c.tool_name, c.arguments or "") for c in chunk.tool_calls or ()),
        results=((result.origin.id, result.origin.tool_name),) if result else (),
        finish_reason=chunk.finish_reason if chunk.finish_reason in FINISH_REASONS else None,
        usage=_usage(meta) if meta else None,
        source=(info.type, info.name) if info else None,
    )


def _message_delta(message: Any) -> Delta:
    calls = (
        CallDelta(index, call.id, call.tool_name, json.dumps(call.arguments, ensure_ascii=False), is_complete=True)
        for index, call in enumerate(message.tool_calls)
    )
    return Delta(
        content="".join(message.texts),
        reasoning="".join(reasoning.reasoning_text for reasoning in message.reasonings),
        calls=tuple(calls),
        results=tuple((result.origin.id, result.origin.tool_name) for result in message.tool_call_results),
        finish_reason=_finish_reason(message.meta.get("finish_reason")),
        usage=_usage(message.meta),
    )


_HAYSTACK_READERS = {"StreamingChunk": _chunk_delta, "ChatMessage": _message_delta}


def _event(item: Any) -> Mapping[str, Any] | None:
    """Return *item* as an event for the UI if it has a type and data."""
    if isinstance(item, Mapping):
        return item if isinstance(item.get("type"), str) and "data" in item and "choices" not in item else None
    if isinstance(getattr(item, "type", None), str) and hasattr(item, "data"):
        return {"type": item.type, "data": item.data}
    return None


def _plain(item: Any) -> dict[str, Any] | None:
    """Return *item* as a dict if it is one, or an object of OpenAI's client."""
    if isinstance(item, Mapping):
        return dict(item)
    dump = getattr(item, "model_dump", None)
    return dump(exclude_unset=True) if callable(dump) and not isinstance(item, type) else None


def _completion_delta(item: dict[str, Any]) -> Delta:
    event = item.get("event")
    without_choice = Delta(event=event if isinstance(event, Mapping) else None, usage=_usage(item))
    choice = next((choice for choice in item["choices"] if isinstance(choice, Mapping)), None)
    if choice is None:
        return without_choice
    message = choice.get("delta") or choice.get("message") or {}
    delta = _choice_delta(message) if isinstance(message, Mapping) else Delta()
    return delta._replace(
        event=without_choice.event,
        usage=without_choice.usage,
        finish_reason=_finish_reason(choice.get("finish_reason")),
    )


def _response_delta(response: Mapping[str, Any]) -> Delta:
    output = [item for item in response.get("output") or () if isinstance(item, Mapping)]
    reasoning = (item for item in output if item.get("type") == "reasoning")
    summary = (part for item in reasoning for part in item.get("summary") or item.get("content") or ())
    return Delta(
        content="".join(_text(item.get("content")) for item in output if item.get("type") == "message"),
        reasoning="".join(text for part in summary if isinstance(text := _get(part, "text"), str)),
        calls=tuple(_response_call(item) for item in output if item.get("type") == "function_call"),
        finish_reason=_INCOMPLETE.get(_get(response.get("incomplete_details"), "reason")),
        usage=_usage(response),
    )


def _event_delta(kind: str, event: Mapping[str, Any]) -> Delta:
    """Read an event of a streamed response; content of earlier events is not repeated."""
    item, delta = event.get("item"), _string(event.get("delta")) or ""
    if kind in ("response.output_text.delta", "response.refusal.delta"):
        return Delta(delta)
    if kind in ("response.reasoning_summary_text.delta", "response.reasoning_text.delta"):
        return Delta(reasoning=delta)
    if kind == "response.output_item.done" and isinstance(item, Mapping) and item.get("type") == "function_call":
        return Delta(calls=(_response_call(item),))
    if kind in ("response.completed", "response.incomplete") and isinstance(event.get("response"), Mapping):
        delta_of_all = _response_delta(event["response"])
        return Delta(finish_reason=delta_of_all.finish_reason, usage=delta_of_all.usage)
    if kind == "response.failed":
        error = _get(_get(event.get("response"), "error"), "message")
        raise PipelineError(_string(error) or "the response failed", traceback="")
    return Delta()


def _response_call(item: Mapping[str, Any]) -> CallDelta:
    id_, name, arguments = (_string(item.get(field)) for field in ("call_id", "name", "arguments"))
    return CallDelta(0, id_, name, arguments or "", is_complete=True)


def _choice_delta(message: Mapping[str, Any]) -> Delta:
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list | tuple) else ()
    is_complete = "role" in message and not any("index" in call for call in calls if isinstance(call, Mapping))
    deltas = []
    for position, call in enumerate(calls):
        function = _get(call, "function")
        index, arguments = _get(call, "index"), _get(function, "arguments")
        deltas.append(
            CallDelta(
                index if isinstance(index, int) else position,
                _string(_get(call, "id")),
                _string(_get(function, "name")),
                arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else "",
                is_complete,
            )
        )
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return Delta(
        content=_text(message.get("content")) or _text(message.get("refusal")),
        reasoning=reasoning if isinstance(reasoning, str) else "",
        calls=tuple(deltas),
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    texts = (_get(part, "text") or _get(part, "refusal") for part in parts if _get(part, "type") in _TEXT_PARTS)
    return "".join(text for text in texts if isinstance(text, str))


def _usage(meta: Mapping[str, Any]) -> Mapping[str, Any] | None:
    # Haystack's OpenAI Responses generator has the token counts in the response.
    usage = meta.get("usage") or _get(meta.get("response"), "usage")
    usage = _plain(usage) if usage else None
    return _counts(usage) if usage else None


def _counts(usage: Mapping[str, Any]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for name, value in usage.items():
        if isinstance(value, Mapping):
            counts[name] = _counts(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            counts[name] = value
    return counts


def _finish_reason(reason: Any) -> str | None:
    return reason if isinstance(reason, str) and reason in FINISH_REASONS else None


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None
