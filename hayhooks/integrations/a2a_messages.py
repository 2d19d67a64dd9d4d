"""Messages of the Agent2Agent protocol as those of OpenAI's chat, and the stream of an answer as a task's updates."""

import asyncio
import base64
import json
from contextlib import suppress
from typing import Any

from a2a.helpers import new_data_part
from a2a.server.tasks import TaskUpdater
from a2a.types import Artifact, Message, Part
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from pydantic_core import from_json

from hayhooks.http.within import Answer
from hayhooks.integrations.a2a_tasks import ANSWER
from hayhooks.openapi.describe import EVENTS, JSON

INTERVAL_S = 0.02  # between two updates of the text
MAX_HISTORY_BYTES = 16_384  # of a client's message in the history of its task


def text_part(text: str) -> Part:
    """Return a part with *text*."""
    return Part(text=text)


def content_of(message: Message) -> str | list[dict[str, Any]]:
    """Return the content of a chat message: a text if *message* has nothing else, a list of parts otherwise."""
    parts = [_content_part(part) for part in message.parts]
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _content_part(part: Part) -> dict[str, Any]:
    kind, _, detail = part.media_type.lower().partition(";")[0].partition("/")
    if part.HasField("data"):
        return {"type": "text", "text": json.dumps(MessageToDict(part.data), ensure_ascii=False)}
    if part.HasField("url"):
        if kind == "image":
            return {"type": "image_url", "image_url": {"url": part.url}}
        return {"type": "file", "file": {"filename": part.filename, "file_url": part.url}}
    if not part.HasField("raw"):
        return {"type": "text", "text": part.text}
    data = base64.b64encode(part.raw).decode()
    url = f"data:{part.media_type or 'application/octet-stream'};base64,{data}"
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": data, "format": detail.removeprefix("x-")}}
    return {"type": "file", "file": {"filename": part.filename or "file", "file_data": url}}


def without_files(message: Message) -> Message:
    """Return *message* without the bytes of files."""
    if not any(part.raw for part in message.parts):
        return message
    copy = Message()
    copy.CopyFrom(message)
    for part in copy.parts:
        if part.raw:
            part.metadata.update({"bytes": len(part.raw)})
            part.raw = b""
    return copy


def for_history(message: Message) -> Message:
    """Return *message*, without files, for the history of its task: texts are cut, and data left out, if it is long."""
    if message.ByteSize() <= MAX_HISTORY_BYTES:
        return message
    kept = Message(
        message_id=message.message_id, context_id=message.context_id, task_id=message.task_id, role=message.role
    )
    left = MAX_HISTORY_BYTES
    for part in message.parts:
        size = part.ByteSize()
        if size > left:
            short = text_part(part.text[: left // 4])
            short.metadata.update({"bytes": size})
            kept.parts.append(short)
            break
        kept.parts.append(part)
        left -= size
    return kept


class AnswerReader:
    """Reads the stream of a chat's answer, and publishes it by *updater*: text, calls of tools, events, artifacts.

    Text that comes soon after other text is published together with what follows within ``INTERVAL_S``.
    """

    def __init__(self, updater: TaskUpdater) -> None:
        self._updater = updater
        self._unread = b""
        self._published: list[str] = []
        self._pending: list[str] = []
        self._publishing = asyncio.Lock()
        self._due = 0.0  # when the next text may be published, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None  # which the timer began
        self._calls: list[Any] = []
        self._error = ""
        self._is_whole = False

    @property
    def text(self) -> str:
        """The text of the answer."""
        return "".join(self._published)

    async def write(self, chunk: bytes) -> None:
        """Publish what *chunk*, the next part of the body, completes."""
        *events, self._unread = (self._unread + chunk).split(b"\n\n")
        for event in events:
            if event == b"data: [DONE]":
                self._is_whole = True
            if not event.startswith(b"data: {"):
                continue
            item = from_json(event.removeprefix(b"data: "))
            if "error" in item:
                self._error = item["error"]["message"]
            for choice in item.get("choices", ()):
                self._pending.append(choice["delta"].get("content") or "")
                self._calls += choice["delta"].get("tool_calls", ())
            if "event" in item:
                await self._flush()
                await self._publish(item["event"])
        loop = asyncio.get_running_loop()
        if loop.time() >= self._due:
            await self._flush()
        elif self._timer is None:
            self._timer = loop.call_at(self._due, self._begin_flush)

    async def finish(self, answer: Answer) -> str:
        """Publish what the stream does not have; return why there is no whole *answer*, "" otherwise."""
        if answer.status >= 400 or not answer.status:
            return _problem(answer)
        if answer.media_type != EVENTS:  # a response of the wrapper's own
            await self._updater.add_artifact([_whole_part(answer)], ANSWER, ANSWER, last_chunk=True)
            return answer.cut_by
        if self._error or not self._is_whole:
            await self._flush()
            return self._error or answer.cut_by or "the answer was cut"
        if self._calls:
            await self._updater.add_artifact([new_data_part({"tool_calls": self._calls})], "tool_calls", "tool_calls")
        await self._flush(is_last=True)
        return answer.cut_by

    def close(self) -> None:
        """Publish nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin_flush(self) -> None:
        self._task = asyncio.create_task(self._flush())

    async def _flush(self, *, is_last: bool = False) -> None:
        """Publish the text that is pending; the last time also where there is none."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        async with self._publishing:
            text = "".join(self._pending)
            self._pending.clear()
            if text or is_last:
                goes_on = bool(self._published)
                self._published.append(text)
                self._due = asyncio.get_running_loop().time() + INTERVAL_S
                parts = [text_part(text)]
                await self._updater.add_artifact(parts, ANSWER, ANSWER, append=goes_on, last_chunk=is_last)

    async def _publish(self, event: Any) -> None:
        """Publish an event for the UI: as an artifact if it is one, else as a message of the task at work."""
        if event["type"] == "artifact":
            try:
                artifact = ParseDict(event["data"], Artifact())
            except ParseError as error:
                self._error = f"an event of type 'artifact' must have an A2A artifact as its data: {error}"
                return
            await self._updater.add_artifact(list(artifact.parts), artifact.artifact_id or None, artifact.name)
            return
        await self._updater.start_work(self._updater.new_agent_message([new_data_part(event)]))


def _whole_part(answer: Answer) -> Part:
    if answer.media_type == JSON:
        with suppress(ValueError):  # a wrapper may call anything JSON
            return new_data_part(from_json(answer.body, allow_inf_nan=False))
    if answer.media_type == JSON or answer.media_type.startswith("text/"):
        return text_part(answer.body.decode(errors="replace"))
    return Part(raw=answer.body, media_type=answer.media_type)


def _problem(answer: Answer) -> str:
    """Return why a request failed."""
    try:
        detail = from_json(answer.body)["detail"]
    except (ValueError, LookupError, TypeError):
        detail = answer.body.decode(errors="replace") or answer.cut_by
    return str(detail) or f"status {answer.status or 499}"
