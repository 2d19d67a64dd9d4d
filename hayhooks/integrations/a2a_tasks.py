"""What the agents keep between requests, within bounds: tasks, and the messages of conversations."""

import time
from collections import OrderedDict
from itertools import groupby
from typing import Any, NamedTuple

from a2a.server.agent_execution.active_task import TERMINAL_TASK_STATES
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import Artifact, ListTasksRequest, ListTasksResponse, Part, Task

KEPT_S = 3_600.0  # how long what has ended is kept
MAX_KEPT = 1_000
MAX_KEPT_BYTES = 64 * 2**20

ANSWER = "response"  # id and name of the artifact with the text, as in the original; only this one is appended to

_GOES_ON = "hayhooks.goes_on"  # in the metadata of an artifact of the SDK's task: its parts follow those that are kept

Conversation = tuple[str, str]  # owner, id of the context


class Bounded:
    """Sizes of what is kept, the last used one last; tells what to forget."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, tuple[float, int]] = OrderedDict()  # when it was used, bytes
        self._bytes = 0

    def keep(self, key: Any, size: int) -> list[Any]:
        """Note that *key* is used, and has *size* bytes; return the keys to forget, perhaps itself."""
        self._bytes += size - self._kept.pop(key, (0.0, 0))[1]
        now = time.monotonic()
        self._kept[key] = (now, size)
        forgotten = []
        while self._kept:
            used_at, size = next(iter(self._kept.values()))
            if len(self._kept) <= MAX_KEPT and self._bytes <= MAX_KEPT_BYTES and used_at > now - KEPT_S:
                break
            forgotten.append(self._kept.popitem(last=False)[0])
            self._bytes -= size
        return forgotten


class _Work(NamedTuple):
    """A task that runs: what the SDK adds to, and what is kept."""

    news: Task  # the SDK's own: what it has added since the last update
    whole: Task
    artifacts: dict[str, Artifact]  # of ``whole``, by id


class Tasks(InMemoryTaskStore):
    """Tasks: those that run, and the last ones that have ended.

    The SDK copies its task with each update, for each subscriber, read or not. So what it adds is moved to a task that
    is kept here, and the SDK's has the news alone until the last update.
    """

    def __init__(self) -> None:
        super().__init__(use_copying=False)
        self._ended = Bounded()
        self._contexts: dict[str, ServerCallContext] = {}  # with the owner alone, by the task's id
        self._running: dict[str, _Work] = {}

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Save *task*; one that runs has the news alone after its second update, and everything after its last one."""
        work, has_ended = self._running.get(task.id), task.status.state in TERMINAL_TASK_STATES
        if work is None or work.news is not task:
            whole = Task()
            whole.CopyFrom(task)
            await super().save(whole, context)
            self._running[task.id] = _Work(task, whole, {each.artifact_id: each for each in whole.artifacts})
        else:
            _move_news(work)
            whole = work.whole
        if has_ended:
            del self._running[task.id]
            _join_texts(whole)
            task.CopyFrom(whole)
            self._contexts[task.id] = ServerCallContext(user=context.user)
            for id_ in self._ended.keep(task.id, whole.ByteSize()):
                await self.delete(id_, self._contexts.pop(id_))

    async def get(self, task_id: str, context: ServerCallContext) -> Task | None:
        """Return a copy of the whole task."""
        whole = await super().get(task_id, context)
        if whole is None:
            return None
        _join_texts(whole)
        copy = Task()
        copy.CopyFrom(whole)
        return copy

    async def list(self, params: ListTasksRequest, context: ServerCallContext) -> ListTasksResponse:
        """Return copies of the tasks."""
        response = await super().list(params, context)
        for task in response.tasks:
            _join_texts(task)
        return response


def _move_news(work: _Work) -> None:
    """Move what the SDK has added to the task."""
    news, whole, artifacts = work
    whole.status.CopyFrom(news.status)
    whole.metadata.MergeFrom(news.metadata)
    first = whole.history[0].message_id if whole.history else None
    whole.history.extend(each for each in news.history if each.message_id != first)  # the first update left it there
    del news.history[:]
    for artifact in news.artifacts:
        kept = artifacts.get(artifact.artifact_id)
        if kept is None:
            artifacts[artifact.artifact_id] = kept = whole.artifacts.add()
        if _GOES_ON in artifact.metadata:
            kept.parts.extend(artifact.parts)
        else:
            kept.CopyFrom(artifact)
    del news.artifacts[:]
    if ANSWER in artifacts:
        news.artifacts.add(artifact_id=ANSWER).metadata[_GOES_ON] = True  # the SDK appends to what there is alone


def _join_texts(task: Task) -> None:
    """Join the parts of each artifact that are text alone, and follow each other."""
    for artifact in task.artifacts:
        if len(artifact.parts) < 2:
            continue
        parts: list[Part] = []
        for is_text_alone, group in groupby(artifact.parts, lambda p: p.HasField("text") and len(p.ListFields()) == 1):
            run = list(group)
            parts += [Part(text="".join(part.text for part in run))] if is_text_alone else run
        del artifact.parts[:]
        artifact.parts.extend(parts)


class Conversations:
    """The messages of each context that a client goes on with, as OpenAI's chat has them."""

    def __init__(self) -> None:
        self._used = Bounded()
        self._turns: dict[Conversation, tuple[list[dict[str, Any]], int]] = {}  # with their bytes

    def messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """Return the messages before the next one."""
        return self._turns.get(conversation, ([], 0))[0]

    def add(self, conversation: Conversation, messages: list[dict[str, Any]], size: int) -> None:
        """Add *messages* of *size* bytes to *conversation*; forget what was not used for longest."""
        before, size_before = self._turns.get(conversation, ([], 0))
        self._turns[conversation] = [*before, *messages], size_before + size
        for forgotten in self._used.keep(conversation, size_before + size):
            del self._turns[forgotten]
