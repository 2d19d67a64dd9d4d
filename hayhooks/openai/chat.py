"""OpenAI chat completions: ``/v1/chat/completions`` and ``/{name}/chat``.

routes -> ``parse`` -> ``handle`` -> the wrapper -> ``ChatCompletionEncoder``. The shapes are those of
https://platform.openai.com/docs/api-reference/chat.
"""

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from itertools import chain
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from hayhooks.errors import OpenAIError, safe_str
from hayhooks.http.json import encode_part, encode_texts
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.openai import schemas
from hayhooks.openai.bridge import CHAT_METHODS, TO_RESPONSES, Body
from hayhooks.openai.delta import Delta, DeltaAccumulator, PendingCall
from hayhooks.openai.endpoint import (
    AnswerEncoder,
    OpenAIEndpoint,
    check_content,
    check_stream,
    parse_object,
    sent_instead,
)
from hayhooks.openai.normalize import completion_of, plain_texts, to_delta

DONE = b"data: [DONE]\n\n"


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the paths on which the body names the model."""
    return _CHAT.server_routes(snapshot)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Serve ``/{name}/chat``."""
    return _CHAT.deployment_routes(deployment)


def parse(content: bytes) -> Body:
    """Parse and check a request's body; an error names the field that is wrong."""
    body = parse_object(content)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        message = f"'messages' must be a list of at least one message{sent_instead(body, 'messages')}"
        raise OpenAIError(400, message, param="messages")
    for index, message in enumerate(messages):
        param = f"messages[{index}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise OpenAIError(400, f"'{param}' must be an object with a 'role'", param=param)
        check_content(message, param)
    check_stream(body)
    return body


async def handle(deployment: Deployment, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
    """Call the wrapper with a checked *body*, encode its answer and send it."""
    include_usage = (body.get("stream_options") or {}).get("include_usage") is True
    new_encoder = partial(ChatCompletionEncoder, deployment.name, include_usage=include_usage)
    response = await _CHAT.respond(deployment, body, body["messages"], new_encoder, scope, receive)
    await response(scope, receive, send)


class ChatCompletionEncoder(AnswerEncoder):
    """Encode one answer as a ``chat.completion`` object, or as its chunks.

    With *include_usage* a stream ends with the token counts. They are 0 if nobody has counted: clients read them
    without asking whether they are there.
    """

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._model = model
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._include_usage = include_usage
        self._accumulator = DeltaAccumulator()

    def ready_object(self, item: Any) -> dict[str, Any] | None:
        """Return *item* if it is a whole chat completion, with missing fields added."""
        completion = completion_of(item)
        if completion is None:
            return None
        return {**self._head("chat.completion"), **completion, "usage": completion.get("usage") or _usage({})}

    def answer_object(self, deltas: Iterable[Delta]) -> dict[str, Any]:
        """Return the ``chat.completion`` object that *deltas* add up to."""
        content, reasoning, events = [], [], []
        for delta in deltas:
            content.append(delta.content)
            reasoning.append(delta.reasoning)
            if delta.event is not None:
                events.append(delta.event)
            self._accumulator.add(delta)
        calls = [_tool_call(call) for call in self._accumulator.calls]
        message: dict[str, Any] = {"role": "assistant", "content": "".join(content) or (None if calls else "")}
        if any(reasoning):
            message["reasoning_content"] = "".join(reasoning)
        if calls:
            message["tool_calls"] = calls
        finish_reason = self._accumulator.finish_reason
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        completion = {**self._head("chat.completion"), "choices": [choice], "usage": _usage(self._accumulator.usage)}
        return {**completion, "events": events} if events else completion

    def begin(self) -> bytes:
        """Return the chunk with the role."""
        return self._chunk({"role": "assistant", "content": ""})

    def write(self, batch: list[Any]) -> Iterable[bytes]:
        """Yield the chunks of *batch*; tool calls are sent at the end."""
        texts = None if self._accumulator.has_calls else plain_texts(batch)
        if texts is None:
            return chain.from_iterable(map(self._item_chunks, batch))
        return (encode_texts(texts, *self._around_texts),) if texts else ()

    def _item_chunks(self, item: Any) -> Iterator[bytes]:
        delta = to_delta(item)
        self._accumulator.add(delta)
        if delta.content:
            yield encode_texts([delta.content], *self._around_texts)
        if delta.reasoning:
            yield self._chunk({"reasoning_content": delta.reasoning})
        if delta.event is not None:
            yield self._chunk_without_choice({"event": delta.event})

    def finish(self) -> bytes:
        """Return the client's calls, the finish reason, and ``[DONE]``."""
        chunks = [
            self._chunk({"tool_calls": [{"index": index, **_tool_call(call)}]})
            for index, call in enumerate(self._accumulator.calls)
        ]
        chunks.append(self._chunk({}, self._accumulator.finish_reason))
        if self._include_usage:
            chunks.append(self._chunk_without_choice({"usage": _usage(self._accumulator.usage)}))
        return b"".join([*chunks, DONE])

    def fail(self, error: Exception) -> bytes:
        """Return an error event, which SDKs raise and UIs show, without a finish reason."""
        body = OpenAIError(500, safe_str(error), type="server_error").body()["error"]
        return b"".join([b"data: ", encode_part({"error": body}), b"\n\n", DONE])

    # Chunks of text differ in their text alone: the JSON around it is encoded once for each answer.

    @cached_property
    def _before_choices(self) -> bytes:
        return b"data: " + encode_part(self._head("chat.completion.chunk"))[:-1] + b',"choices":['

    @cached_property
    def _around_texts(self) -> tuple[bytes, bytes, bytes]:
        """The bytes before the first text, between two, and after the last."""
        before, _, after = self._chunk({"content": ""}).rpartition(b'""')
        return before, after + before, after

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._before_choices + encode_part(choice) + b"]}\n\n"

    def _chunk_without_choice(self, extra: dict[str, Any]) -> bytes:
        return self._before_choices + b"]," + encode_part(extra)[1:] + b"\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}


def _tool_call(call: PendingCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Name *counts* as chat completions do; some providers use the names of Responses."""
    prompt = counts.get("prompt_tokens", counts.get("input_tokens", 0))
    completion = counts.get("completion_tokens", counts.get("output_tokens", 0))
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": counts.get("total_tokens", prompt + completion),
    }
    for name, other in (
        ("prompt_tokens_details", "input_tokens_details"),
        ("completion_tokens_details", "output_tokens_details"),
    ):
        if details := counts.get(name) or counts.get(other):
            usage[name] = details
    return usage


_CHAT = OpenAIEndpoint(
    path="/chat/completions",
    short_path="/chat",
    title="chat completions",
    short_name="chat",
    methods=CHAT_METHODS,
    field="messages",
    argument="messages",
    bridge=TO_RESPONSES,
    docs=schemas.CHAT,
    parse=parse,
    handle=handle,
)
