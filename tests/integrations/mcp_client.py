"""The official client of the Model Context Protocol, with a deadline."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, TextContent

T = TypeVar("T")

DEADLINE_S = 60.0
ERAS = ("auto", "legacy")  # protocol version of 2026, of 2025


def with_client(
    url: str,
    talk: Callable[[Client], Awaitable[T]],
    mode: Any = "auto",
    *,
    key: str = "",
    deadline_s: float = DEADLINE_S,
    **options: Any,
) -> T:
    """Connect to the server at *url*, and return what *talk* does."""

    async def connect() -> T:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers, timeout=DEADLINE_S) as http:
            transport = streamable_http_client(f"{url}/mcp", http_client=http)
            async with asyncio.timeout(deadline_s), Client(transport, mode=mode, cache=None, **options) as client:
                return await talk(client)

    return asyncio.run(connect())


def call(url: str, name: str, arguments: dict[str, Any] | None = None, mode: Any = "auto", **options: Any) -> Any:
    """Call one tool."""
    return with_client(url, lambda client: client.call_tool(name, arguments or {}), mode, **options)


def text_of(result: CallToolResult) -> str:
    """The text of *result*."""
    return "".join(block.text for block in result.content if isinstance(block, TextContent))
