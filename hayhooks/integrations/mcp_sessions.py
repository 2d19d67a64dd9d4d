"""Sessions of MCP's clients of 2025: each is of one API key, and there is a bounded number of them."""

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mcp.server.session import ServerSession
from starlette.types import Scope

from hayhooks.setting_types import ApiKey

MAX_SESSIONS = 1_000  # beyond, the one that was idle for longest ends
IDLE_S = 30 * 60.0  # after which a session ends


@dataclass(slots=True)
class Session:
    """A session; it is entered while a request of it is answered."""

    scope: Scope  # of the request that has begun it
    key: ApiKey | None  # of its client
    used_at: float = field(default_factory=time.monotonic)
    requests: int = 0  # that are being answered
    server: ServerSession | None = None  # sends notices, once the client is ready for them
    is_notified: bool = False  # and has not read that yet

    def __enter__(self) -> None:
        self.requests += 1

    def __exit__(self, *_: object) -> None:
        self.requests -= 1
        self.used_at = time.monotonic()

    async def notify(self) -> None:
        """Tell the client that the lists have changed."""
        assert self.server is not None
        self.is_notified = True
        try:
            await self.server.send_tool_list_changed()
            await self.server.send_resource_list_changed()
        finally:
            self.is_notified = False


class Sessions:
    """The sessions by id."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Session] = OrderedDict()  # the last used one is the last

    def use(self, session_id: str, key: ApiKey | None) -> Session | None:
        """Return the session that a request with *key* is of, if there is one of this key: the SDK refuses others."""
        session = self._by_id.get(session_id)
        if session is None or session.key != key:
            return None
        self._by_id.move_to_end(session_id)
        return session

    def add(self, session_id: str, session: Session) -> Iterator[tuple[str, Session]]:
        """Add *session*; yield those that it takes the place of, and those that were idle for too long."""
        self._by_id[session_id] = session
        idle_since = time.monotonic() - IDLE_S
        for each, other in list(self._by_id.items()):
            if len(self._by_id) <= MAX_SESSIONS and other.used_at > idle_since:
                break
            if not other.requests and each != session_id:
                del self._by_id[each]
                yield each, other

    def forget(self, session_id: str) -> None:
        """Remove a session that has ended."""
        self._by_id.pop(session_id, None)

    def note_ready(self, session_id: str, server: ServerSession) -> None:
        """Note that the client of a session is ready for notices, which *server* sends."""
        if (session := self._by_id.get(session_id)) is not None:
            session.server = server

    def to_notify(self) -> list[Session]:
        """List those whose clients are ready, and have read the last notices."""
        return [each for each in self._by_id.values() if each.server is not None and not each.is_notified]
