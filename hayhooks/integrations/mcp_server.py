"""The server of the Model Context Protocol, by its SDK: tools, resources, notices of changes, sessions.

What a tool does is a request within the process, to the deployment or to ``/status``.
"""

import asyncio
from collections.abc import Awaitable, Coroutine
from contextlib import nullcontext
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from mcp.server import NotificationOptions, Server
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.models import InitializationOptions
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListResourcesResult,
    ListToolsResult,
    NotificationParams,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    TextResourceContents,
)
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send

from hayhooks._version import __version__
from hayhooks.errors import RefusedError, closest, shortened
from hayhooks.http.api_keys import may_call, refuse_call
from hayhooks.http.compute import compute_once
from hayhooks.http.context import context_of
from hayhooks.http.lookup import exists, not_served_error
from hayhooks.http.request_json import read_json
from hayhooks.http.switch import Switch
from hayhooks.http.within import Answer, OnChunk, request_within
from hayhooks.integrations.mcp_sessions import IDLE_S, MAX_SESSIONS, Session, Sessions
from hayhooks.integrations.mcp_tools import (
    DeploymentTool,
    body_of,
    core_tools,
    failed,
    pipelines_of,
    result_of,
    status_of,
    text_of_events,
    tools_by_name,
    tools_of,
)
from hayhooks.kernel.state import Deployment, Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.openai.bridge import chat_of
from hayhooks.openapi.describe import JSON
from hayhooks.setting_types import ApiKey

MAX_MESSAGE = 4 * 1024 * 1024  # bytes

_INSTRUCTIONS = (
    "Each tool runs a Haystack pipeline. Pipelines come, change and go while the server runs: list_pipelines and "
    "pipeline_status tell which there are, and why one does not serve."
)

_LEFT = "hayhooks.left"  # key in the scope: an event, set when the client takes no answer any more

_EXPOSED = (b"access-control-expose-headers", b"Mcp-Session-Id")  # a client in a browser has to send it back

_Context = ServerRequestContext[Any, Any]


class ToolServer:
    """ASGI app for ``/mcp``, and the handlers of what comes over it or over stdio; *app* is the application."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._switch: Switch = app.switch  # type: ignore[attr-defined]  # a Hayhooks
        self.started = asyncio.Event()
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._revisions = _revisions_of(self._switch.live.snapshot)
        self._sessions = Sessions()
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.protocol = _Protocol(
            "hayhooks",
            version=__version__,
            instructions=_INSTRUCTIONS,
            get_tool_input_schema=lambda name: None,  # no argument of ours is sent as a header
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_read_resource=self._read_resource,
            on_subscriptions_listen=self._listen,
        )
        self.protocol.add_notification_handler("notifications/initialized", NotificationParams, self._initialized)
        # Else the next request of a session may come to another process.
        is_alone: bool = app.is_alone  # type: ignore[attr-defined]  # as above
        self._manager = StreamableHTTPSessionManager(
            self.protocol,
            stateless=not is_alone,
            session_idle_timeout=IDLE_S,
            max_sessions=2 * MAX_SESSIONS,  # where as many have open streams, and so do not end
            max_request_body_size=MAX_MESSAGE,
        )

    async def run(self) -> None:
        """Serve until this is cancelled."""
        async with self._manager.run():
            self.started.set()
            await asyncio.Event().wait()

    def note_snapshot(self, snapshot: Snapshot) -> None:
        """Tell the clients if other revisions serve."""
        before, self._revisions = self._revisions, _revisions_of(snapshot)
        if self._revisions == before:
            return
        self._begin(self._bus.publish(ToolsListChanged()))
        self._begin(self._bus.publish(ResourcesListChanged()))
        for session in self._sessions.to_notify():
            self._begin(session.notify())

    def end_streams(self) -> None:
        """End the streams of notices: the server stops, and they have no end."""
        self._stopping.set()
        self._listen.close()

    def _begin(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------------------------------- Streamable HTTP

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        context, is_get = context_of(scope), scope["method"] == "GET"
        if (key := context.api_key) is not None:  # a session belongs to it
            scope["user"] = AuthenticatedUser(AccessToken(token=key.key, client_id=key.key, scopes=[]))
        session_id = context.headers.get(b"mcp-session-id", b"").decode("latin-1")
        session = self._sessions.use(session_id, key)
        has_ended = False
        scope[_LEFT] = asyncio.Event()

        async def watched_send(message: Message) -> None:
            nonlocal has_ended
            if message["type"] == "http.response.start":
                headers, status = dict(message["headers"]), message["status"]
                if session is not None and (status == 404 or (scope["method"] == "DELETE" and status < 300)):
                    self._sessions.forget(session_id)
                elif not session_id and status < 300 and b"mcp-session-id" in headers:
                    await self._add_session(headers[b"mcp-session-id"].decode(), scope)
                    message["headers"] = [*message["headers"], _EXPOSED]
            has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        received = self._until_stop(receive) if is_get else await _bounded(scope, receive)
        with session or nullcontext():
            try:
                await self._manager.handle_request(scope, received, watched_send)
            finally:
                scope[_LEFT].set()
        if is_get and self._stopping.is_set() and not has_ended:
            await send({"type": "http.response.body", "body": b""})

    def _until_stop(self, receive: Receive) -> Receive:
        """Return *receive*, for which the client goes away when the server stops."""

        async def received() -> Message:
            message, stop = asyncio.ensure_future(receive()), asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait((message, stop), return_when=asyncio.FIRST_COMPLETED)
                return message.result() if message.done() else {"type": "http.disconnect"}
            finally:
                message.cancel()
                stop.cancel()

        return received

    async def _add_session(self, session_id: str, scope: Scope) -> None:
        for each, session in self._sessions.add(session_id, Session(scope, context_of(scope).api_key)):
            headers = [(b"mcp-session-id", each.encode())]
            delete = {**session.scope, "method": "DELETE", "headers": headers}
            await self._manager.handle_request(delete, _receive_nothing, _send_nowhere)

    async def _initialized(self, ctx: _Context, params: NotificationParams | None) -> None:
        if ctx.request is None:  # stdio: there is one client
            list(self._sessions.add("", Session({}, None)))
        session_id = ctx.request.headers.get("mcp-session-id", "") if ctx.request else ""
        self._sessions.note_ready(session_id, ctx.session)

    # ------------------------------------------------------------------------------------------- tools, resources

    async def _list_tools(self, ctx: _Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        own, key = tools_by_name(await self._visible(ctx)), _key_of(ctx)
        core = core_tools() if key is None or key.reads else []
        return ListToolsResult(tools=[*own.values(), *(tool for tool in core if tool.name not in own)])

    async def _call_tool(self, ctx: _Context, params: CallToolRequestParams) -> CallToolResult:
        name, arguments = params.name, params.arguments or {}
        snapshot = await self._switch.wait_until_known(name)
        if (called := await self._find_tool(_key_of(ctx), snapshot, name)) is not None:
            return await self._call_deployment(ctx, *called, arguments)
        if name == "list_pipelines":
            return pipelines_of(await self._send(ctx, "GET", "/status"))
        if name == "pipeline_status":
            pipeline = arguments.get("name")
            if not isinstance(pipeline, str) or not pipeline or "/" in pipeline:
                return failed("name: must be the name of a pipeline")
            return status_of(await self._send(ctx, "GET", f"/status/{pipeline}"))
        try:
            refuse_call(_key_of(ctx), name)  # whether there is one or not
        except RefusedError as error:
            return failed(str(error))
        if exists(snapshot, name) and name not in snapshot.deployments:
            return failed(str(not_served_error(snapshot, name)))
        named = snapshot.deployments.get(name)
        if named is not None and await _described(named) == [] and chat_of(named):
            return failed(f"{name} can only chat: `mcp_chat = True` in its wrapper makes a tool of that")
        meant = closest(name, (tool.name for tool in (await self._list_tools(ctx, None)).tools))
        return failed(f"There is no tool {shortened(name)!r}" + (f"; did you mean {meant!r}?" if meant else ""))

    async def _find_tool(
        self, key: ApiKey | None, snapshot: Snapshot, name: str
    ) -> tuple[Deployment, DeploymentTool] | None:
        for deployment in filter(None, map(snapshot.deployments.get, (name, name.removesuffix("_chat")))):
            for each in (may_call(key, deployment.name) and await _described(deployment)) or ():
                if each.tool.name == name:
                    return deployment, each
        return None

    async def _call_deployment(
        self, ctx: _Context, deployment: Deployment, called: DeploymentTool, arguments: dict[str, Any]
    ) -> CallToolResult:
        try:
            content_type, body = body_of(called, arguments)
        except ValueError as error:
            return failed(str(error))
        parts = 0

        async def report(chunk: bytes) -> None:
            nonlocal parts
            text = text_of_events(chunk)[0] if called.path == "/chat" else chunk.decode(errors="replace")
            if text:
                parts += 1
                await ctx.session.report_progress(parts, message=text)

        on_chunk = report if ctx.meta and "progress_token" in ctx.meta else None
        answer = await self._send(ctx, "POST", f"/{deployment.name}{called.path}", body, content_type, on_chunk)
        return result_of(answer, called)

    async def _send(
        self,
        ctx: _Context,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = JSON,
        on_chunk: OnChunk | None = None,
    ) -> Answer:
        outer = ctx.request.scope if ctx.request else None
        left = outer[_LEFT] if outer else None
        return await request_within(
            self._app, method, path, body, content_type=content_type, outer=outer, on_chunk=on_chunk, left=left
        )

    async def _visible(self, ctx: _Context) -> list[tuple[Deployment, list[DeploymentTool]]]:
        """Return the deployments that the client may call, and their tools."""
        key, snapshot = _key_of(ctx), await self._switch.wait_until_ready()
        deployments = [each for name, each in snapshot.deployments.items() if may_call(key, name)]
        described = await asyncio.gather(*map(_described, deployments))
        return [(each, tools) for each, tools in zip(deployments, described, strict=True) if tools is not None]

    async def _list_resources(self, ctx: _Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
        resources = []
        for deployment, _ in await self._visible(ctx):
            name = deployment.name
            base = f"hayhooks://{quote(name)}"
            if "README.md" in deployment.revision.files:
                resources.append(Resource(uri=f"{base}/README.md", name=f"{name}/README.md", mime_type="text/markdown"))
            resources.append(
                Resource(
                    uri=f"{base}/schema.json",
                    name=f"{name}/schema.json",
                    description=f"The JSON schemas of what {name} takes and returns.",
                    mime_type="application/json",
                )
            )
        return ListResourcesResult(resources=resources)

    async def _read_resource(self, ctx: _Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        name, _, file = unquote(uri.removeprefix("hayhooks://")).partition("/")
        deployment = next((each for each, _ in await self._visible(ctx) if each.name == name), None)
        if deployment is not None and file == "README.md" and file in deployment.revision.files:
            path = deployment.revision.path / file
            try:
                text, kind = await server_threads.run(partial(path.read_text, "utf-8", "replace")), "text/markdown"
            except OSError as error:
                raise MCPError(INVALID_PARAMS, f"{uri} cannot be read: {error.strerror}") from None
        elif deployment is not None and file == "schema.json":
            answer = await self._send(ctx, "GET", f"/{name}/schema")
            text, kind = answer.body.decode(), "application/json"
        else:
            raise MCPError(INVALID_PARAMS, f"there is no resource {shortened(uri)!r}", {"uri": uri})
        return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=kind, text=text)])


class _Protocol(Server[Any]):
    def create_initialization_options(self, *args: Any, **kwargs: Any) -> InitializationOptions:
        """Return what clients of 2025 are told: that lists change."""
        return super().create_initialization_options(NotificationOptions(tools_changed=True, resources_changed=True))


def _revisions_of(snapshot: Snapshot) -> dict[str, str]:
    return {name: deployment.revision.fingerprint for name, deployment in snapshot.deployments.items()}


def _described(deployment: Deployment) -> Awaitable[list[DeploymentTool] | None]:
    return compute_once(deployment, "mcp.tools", partial(tools_of, deployment))


def _key_of(ctx: _Context) -> ApiKey | None:
    return context_of(ctx.request.scope).api_key if ctx.request else None


async def _bounded(scope: Scope, receive: Receive) -> Receive:
    """Read the message, whose JSON the SDK parses on the event loop; raise RefusedError if it is too large for that."""
    context = context_of(scope)
    if not 0 < context.body_limit[1] < MAX_MESSAGE:
        context.body_limit = ("for a message of MCP", MAX_MESSAGE)
    unread = [await read_json(scope, receive, bytes)]

    async def received() -> Message:
        return {"type": "http.request", "body": unread.pop()} if unread else await receive()

    return received


async def _receive_nothing() -> Message:
    return {"type": "http.request", "body": b""}


async def _send_nowhere(message: Message) -> None:
    pass
