"""The official client of the Agent2Agent protocol, with a deadline."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import uuid4

import httpx
from a2a.client import Client, ClientConfig, create_client
from a2a.types import Message, Part, Role, SendMessageConfiguration, SendMessageRequest, StreamResponse, Task, TaskState

T = TypeVar("T")

DEADLINE_S = 60.0


@asynccontextmanager
async def connected(
    agent: str, *, key: str = "", streaming: bool = True, deadline_s: float = DEADLINE_S
) -> AsyncIterator[Client]:
    """A client of the agent at the URL *agent*, made from its card."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with asyncio.timeout(deadline_s), httpx.AsyncClient(headers=headers, timeout=deadline_s) as http:
        client = await create_client(agent, ClientConfig(streaming=streaming, httpx_client=http))
        async with client:
            yield client


def with_client(agent: str, talk: Callable[[Client], Awaitable[T]], **options: Any) -> T:
    """Connect to the agent at the URL *agent*, and return what *talk* does."""

    async def connect() -> T:
        async with connected(agent, **options) as client:
            return await talk(client)

    return asyncio.run(connect())


def request(*parts: str | Part, context_id: str = "", returns_at_once: bool = False) -> SendMessageRequest:
    """A request with a message of *parts*."""
    message = Message(
        message_id=uuid4().hex,
        role=Role.ROLE_USER,
        context_id=context_id,
        parts=[Part(text=part) if isinstance(part, str) else part for part in parts],
    )
    return SendMessageRequest(
        message=message, configuration=SendMessageConfiguration(return_immediately=returns_at_once)
    )


async def all_of(responses: AsyncIterator[StreamResponse]) -> list[StreamResponse]:
    """Everything that comes."""
    return [response async for response in responses]


def send(agent: str, *parts: str | Part, context_id: str = "", **options: Any) -> Task:
    """Send a message, and return the task when it has ended."""

    async def talk(client: Client) -> Task:
        (response,) = await all_of(client.send_message(request(*parts, context_id=context_id)))
        return response.task

    return with_client(agent, talk, streaming=False, **options)


def stream(agent: str, *parts: str | Part, **options: Any) -> list[StreamResponse]:
    """Send a message, and return everything that is streamed."""
    return with_client(agent, lambda client: all_of(client.send_message(request(*parts))), **options)


def state_of(task: Task) -> str:
    """The state of *task*."""
    name: str = TaskState.Name(task.status.state)
    return name.removeprefix("TASK_STATE_").lower()


def text_of(task: Task) -> str:
    """The text of the answer of *task*, or why there is none."""
    parts = [part for artifact in task.artifacts for part in artifact.parts] or task.status.message.parts
    return "".join(part.text for part in parts)
