"""MCP over stdin and stdout: the application of this process, or a bridge to a server."""

import os
from collections.abc import Awaitable, Callable
from typing import Any, Self

import anyio
import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.server.stdio import stdio_server
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
)
from mcp.shared.message import ClientMessageMetadata, SessionMessage
from mcp_types import CONNECTION_CLOSED, PROTOCOL_VERSION_META_KEY, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse
from mcp_types.version import LATEST_MODERN_VERSION
from starlette.applications import Starlette

from hayhooks.errors import StartError, shortened, type_and_message
from hayhooks.integrations.mcp_server import ToolServer
from hayhooks.kernel.threads import DaemonThreadPool

_TIMEOUT = httpx2.Timeout(30, read=300)  # seconds; a stream has a comment every 15 s
_REFUSALS = frozenset({401, 403, 404, 501})
_UNAVAILABLE = frozenset({502, 503, 504})  # also of a proxy whose server restarts
_RETRY_S = 1.0
_SESSION = "mcp-session-id"
_TOOLS_CHANGED = SessionMessage(JSONRPCNotification(jsonrpc="2.0", method="notifications/tools/list_changed"))
_NOTHING = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_NOTHING_HEADERS = {
    "Accept": "application/json, text/event-stream",
    MCP_PROTOCOL_VERSION_HEADER: LATEST_MODERN_VERSION,
}


async def serve_stdio(make_app: Callable[[], Starlette]) -> None:
    """Serve the application that *make_app* returns until stdin ends.

    It is made when stdout belongs to the protocol: what wrappers print goes to stderr.
    """
    async with stdio_server(_Input()) as (received, sent):  # type: ignore[arg-type]  # it only reads lines
        app = make_app()
        async with app.router.lifespan_context(app):
            server = ToolServer(app)
            with app.hooks.use(on_publish=server.note_snapshot):  # type: ignore[attr-defined]  # a Hayhooks
                protocol = server.protocol
                await protocol.run(received, sent, protocol.create_initialization_options())


async def bridge(url: str, api_key: str = "") -> None:
    """Pass messages between stdin, stdout and the server at *url*, until stdin ends; raise StartError if it refuses."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    routing = _Routing()
    async with httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT) as http:
        # A message that is acknowledged and dropped: clients are not told why others are refused.
        answer = await http.post(url, json=_NOTHING, headers=_NOTHING_HEADERS)
    if answer.status_code in _REFUSALS:
        raise StartError(f"{url} answers with {answer.status_code}: {shortened(answer.text, 300)}")
    async with (
        stdio_server(_Input()) as (received, sent),  # type: ignore[arg-type]  # as above
        sent,
        _Reconnecting(url, sent.send, headers=headers, timeout=_TIMEOUT) as http,
        streamable_http_client(url, http_client=http, max_sse_event_size=None) as (answers, requests),
        anyio.create_task_group() as tasks,
    ):

        async def pass_answers() -> None:
            async for answer in answers:
                if isinstance(answer, SessionMessage):
                    routing.note(answer)
                    await sent.send(answer)

        tasks.start_soon(pass_answers)
        async for message in received:
            if isinstance(message, SessionMessage):
                await requests.send(routing.addressed(message))
        tasks.cancel_scope.cancel()


class _Input:
    """The lines of stdin. They are read in a daemon thread: the SDK's would keep a stopped process until the next line.

    Wrappers that read stdin find its end.
    """

    def __init__(self) -> None:
        self._threads = DaemonThreadPool("stdin", limit=1)
        self._file = os.fdopen(os.dup(0), encoding="utf-8", errors="replace")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if line := await self._threads.run(self._file.readline):
            return line
        raise StopAsyncIteration


class _Reconnecting(httpx2.AsyncClient):
    """Makes an error the answer of a server that cannot be reached, and begins a lost session of 2025 again.

    The SDK's transport ends at the first connection that fails. *notify* sends a message to the client.
    """

    def __init__(self, url: str, notify: Callable[[SessionMessage], Awaitable[None]], **options: Any) -> None:
        super().__init__(**options)
        self._endpoint = url
        self._notify = notify
        self._initialize: httpx2.Request | None = None  # has begun the session
        self._session = ""
        self._renewing = anyio.Lock()

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        while True:
            try:
                response = await self._answer(request, **options)
                if response.headers.get("content-type", "").startswith("application/json"):
                    await response.aread()  # whose failure would end the SDK's transport too
                if request.method != "GET" or response.status_code not in _UNAVAILABLE:
                    return response
                await response.aclose()
            except httpx2.TransportError as error:
                if request.method != "GET":
                    reason = f"No answer from {self._endpoint}: {type_and_message(error)}"
                    body = {"jsonrpc": "2.0", "id": None, "error": {"code": CONNECTION_CLOSED, "message": reason}}
                    return httpx2.Response(503, json=body, request=request)
            await anyio.sleep(_RETRY_S)  # the stream of notices, which the SDK asks for twice, and never again

    async def _answer(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        session = self._session
        if _SESSION in request.headers:
            request.headers[_SESSION] = session
        response = await super().send(request, **options)
        if _SESSION not in request.headers:
            if _SESSION in response.headers:
                self._initialize, self._session = request, response.headers[_SESSION]
            return response
        if response.status_code != 404 or self._initialize is None or request.method == "DELETE":
            return response
        await response.aclose()
        async with self._renewing:
            if self._session == session:
                begun = await super().send(self._initialize)
                if begun.is_error:
                    return begun
                self._session = begun.headers.get(_SESSION, "")
                version = request.headers.get(MCP_PROTOCOL_VERSION_HEADER, "")
                headers = {**_NOTHING_HEADERS, MCP_PROTOCOL_VERSION_HEADER: version, _SESSION: self._session}
                await super().send(self.build_request("POST", self._endpoint, json=_NOTHING, headers=headers))
                await self._notify(_TOOLS_CHANGED)
        request.headers[_SESSION] = self._session
        return await super().send(request, **options)


class _Routing:
    """The headers of a message: over HTTP they repeat its method, its name and the version of the protocol."""

    def __init__(self) -> None:
        self._initialize_id: Any = None
        self._version = ""  # that a handshake of 2025 has agreed on

    def note(self, answer: SessionMessage) -> None:
        message = answer.message
        if isinstance(message, JSONRPCResponse) and message.id == self._initialize_id:
            self._version = str(message.result.get("protocolVersion", ""))

    def addressed(self, message: SessionMessage) -> SessionMessage:
        sent, headers = message.message, {}
        method, params = getattr(sent, "method", ""), getattr(sent, "params", None) or {}
        if method == "initialize" and isinstance(sent, JSONRPCRequest):
            self._initialize_id = sent.id
        elif version := (params.get("_meta") or {}).get(PROTOCOL_VERSION_META_KEY):
            headers = {MCP_PROTOCOL_VERSION_HEADER: str(version), MCP_METHOD_HEADER: method}
            if isinstance(name := params.get(NAME_BEARING_METHODS.get(method, "")), str):
                headers[MCP_NAME_HEADER] = encode_header_value(name)
        elif self._version:
            headers = {MCP_PROTOCOL_VERSION_HEADER: self._version}
        return SessionMessage(sent, metadata=ClientMessageMetadata(headers=headers) if headers else None)
