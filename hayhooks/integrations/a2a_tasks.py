"""What the agents keep between requests, within bounds: tasks, and the messages of conversations."""

import time
from collections import OrderedDict
from typing import Any

from a2a.server.agent_execution.active_task import TERMINAL_TASK_STATES
from a2a.server.context import ServerCallContext
from a2a.server.tasks import InMemoryTaskStore
from a2a.types import Part, Task

KEPT_S = 3_600.0  # how long what has ended is kept
MAX_KEPT = 1_000
MAX_KEPT_BYTES = 64 * 2**20

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


class Tasks(InMemoryTaskStore):
    """Tasks: those that run, and the last ones that have ended."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = Bounded()
        self._contexts: dict[str, ServerCallContext] = {}  # with the owner alone, by the task's id

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Save *task*, whose text it joins: each update of a task copies all its parts."""
        for artifact in task.artifacts:
            _join_texts(artifact.parts)
        await super().save(task, context)
        if task.status.state in TERMINAL_TASK_STATES:
            self._contexts[task.id] = ServerCallContext(user=context.user)
            for id_ in self._ended.keep(task.id, task.ByteSize()):
                await self.delete(id_, self._contexts.pop(id_))


def _join_texts(parts: Any) -> None:
    """Join the text of the last two *parts*."""
    while len(parts) > 1 and _is_plain(parts[-1]) and _is_plain(parts[-2]):
        parts[-2].text += parts[-1].text
        del parts[-1]


def _is_plain(part: Part) -> bool:
    return part.HasField("text") and len(part.ListFields()) == 1


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
