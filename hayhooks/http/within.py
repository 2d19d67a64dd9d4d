"""Requests within the process: how the plug-ins of other protocols call a deployment, or ask for its status."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope

from hayhooks.errors import type_and_message
from hayhooks.http.context import context_of
from hayhooks.kernel.threads import Outcome
from hayhooks.observability.request_record import current_request

INNER = "hayhooks.inner"  # key in the scope of such a request: the API key of the client for which it is sent
BACKGROUND = "hayhooks.background"  # key in its scope if nobody waits for it: it may take as long as it needs

OnChunk = Callable[[bytes], Awaitable[None]]

# Of the message that the client has sent, not of the client.
_DROPPED = frozenset(
    {b"accept", b"accept-encoding", b"connection", b"content-encoding", b"content-length", b"content-type", b"expect"}
    | {b"last-event-id", b"origin", b"transfer-encoding", b"x-request-id"}
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to a request within the process."""

    status: int
    media_type: str  # without parameters
    body: bytes
    cut_by: str = ""  # the error that ended the body before its end


async def request_within(
    app: ASGIApp,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    content_type: str = "application/json",
    outer: Scope | None = None,
    on_chunk: OnChunk | None = None,
    left: asyncio.Event | None = None,
    is_background: bool = False,
) -> Answer:
    """Send *app* a request for *path*, below its root path, and return the answer.

    It is a request as any other: it has limits, a record, metrics, a line in the access log, a span. It is sent for
    the client of the request *outer*, with its headers; host and API key have been checked there. Without *outer* it
    needs no key. With *is_background* it may take longer than the deployment allows. When *left* is set, or this is
    cancelled, its client has gone away. *on_chunk* gets each part of a stream of text.
    """
    left = left or asyncio.Event()
    status, media_type, chunks = 0, "", list[bytes]()

    async def send(message: Message) -> None:
        nonlocal status, media_type
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message.get("headers", ()))
            media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        elif chunk := message.get("body", b""):
            chunks.append(chunk)
            if on_chunk is not None and status < 400 and message.get("more_body") and media_type.startswith("text/"):
                await on_chunk(chunk)

    scope = _scope(method, path, content_type, outer)
    if is_background:
        scope[BACKGROUND] = True
    # A task of its own: a wrapper may raise SystemExit, and its clean-up must not be cancelled again and again.
    serving = asyncio.create_task(Outcome.awaited(app(scope, receive_of(body, left), send)))
    try:
        outcome = await asyncio.shield(serving)
    except asyncio.CancelledError:
        left.set()
        raise
    return Answer(status, media_type, b"".join(chunks), type_and_message(outcome.error) if outcome.error else "")


def receive_of(body: bytes, left: asyncio.Event) -> Receive:
    """Return what receives a request with that *body*, whose client leaves when *left* is set."""
    unread: list[Message] = [{"type": "http.request", "body": body}]

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


def _scope(method: str, path: str, content_type: str, outer: Scope | None) -> Scope:
    sent = outer or {}
    record = current_request.get(None)
    root_path = sent.get("app_root_path", sent.get("root_path", ""))
    headers = [pair for pair in sent.get("headers", ()) if pair[0] not in _DROPPED and not pair[0].startswith(b"mcp-")]
    headers.append((b"content-type", content_type.encode()))
    if record is not None:
        headers.append((b"x-request-id", record.id.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": sent.get("scheme", "http"),
        "server": sent.get("server"),
        "client": sent.get("client"),
        "root_path": root_path,
        "path": root_path + path,
        "raw_path": quote(root_path + path).encode(),
        "query_string": b"",
        "headers": headers,
        "state": dict(sent.get("state", {})),
        INNER: context_of(sent).api_key if outer is not None else None,
    }
