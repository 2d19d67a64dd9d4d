"""``/status/{name}/revisions``: what became of the last revisions of one name."""

import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from hayhooks.errors import sendable
from hayhooks.http.context import switch_of
from hayhooks.http.hooks import Hooks
from hayhooks.http.lookup import exists, not_served_error
from hayhooks.kernel.state import Change, Failure, Snapshot
from hayhooks.kernel.threads import server_threads
from hayhooks.observability.log import log
from hayhooks.openapi.describe import (
    JSON,
    DocumentedRoute,
    OperationDocs,
    error_responses,
    object_schema,
    parameter,
    response_object,
)

_MAX_REVISIONS = 20  # of each name
_MAX_NAMES = 2_000  # those that changed last, removed ones included


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Keep the history while the application runs."""
    hooks: Hooks = app.hooks  # type: ignore[attr-defined]  # a Hayhooks
    app.state.history = history = History()
    with hooks.use(on_change=history.note):
        yield


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve ``/status/{name}/revisions``."""

    async def revisions(request: Request) -> Response:
        name = request.path_params["name"]
        history: History | None = getattr(request.app.state, "history", None)
        found = history.of(name) if history else []
        store = request.app.reconciler and request.app.reconciler.store
        try:
            saved = [each.facts() for each in await server_threads.run(store.saved, name)] if store else []
        except OSError as error:
            log.warning("The saved revisions of {} cannot be read: {}", name, error)
            saved = []
        live = switch_of(request.scope).live.snapshot
        if not (found or saved) and not exists(live, name):
            raise not_served_error(live, name)
        return JSONResponse({"name": name, "revisions": found, "saved": saved})

    yield DocumentedRoute("/status/{name}/revisions", revisions, {"GET": lambda: _DOCS})


class History:
    """The last changes of each name, the newest first."""

    def __init__(self) -> None:
        self._changes: OrderedDict[str, deque[dict[str, Any]]] = OrderedDict()  # the name that changed last at the end

    def of(self, name: str) -> list[dict[str, Any]]:
        """Return the changes of *name*."""
        return list(self._changes.get(name, ()))

    def note(self, change: Change) -> None:
        """Note *change*; on the event loop."""
        failure = change.outcome if isinstance(change.outcome, Failure) else None
        changes = self._changes.setdefault(change.name, deque(maxlen=_MAX_REVISIONS))
        self._changes.move_to_end(change.name)
        changes.appendleft(
            {
                "revision": change.revision.id if change.revision else None,
                "outcome": change.event,
                "at": failure.failed_at if failure else time.time(),
                "took_ms": round(change.took_ms, 1),
                "files": list(map(sendable, change.files)),
                "error": failure.reason if failure else None,
            }
        )
        if len(self._changes) > _MAX_NAMES:
            self._changes.popitem(last=False)


_DOCS = OperationDocs(
    name="revisions",
    summary="What became of a pipeline's last revisions",
    description="The newest first. `revisions` are kept in memory, since the process started; `saved` are those that "
    "served and are in the state directory.",
    parameters=(parameter("name", "The pipeline's name."),),
    answers={
        "200": response_object(
            "The last changes",
            {
                JSON: object_schema(
                    ["name", "revisions", "saved"],
                    name={"type": "string"},
                    revisions={
                        "type": "array",
                        "items": object_schema(
                            ["revision", "outcome", "at", "took_ms", "files", "error"],
                            revision={"type": ["string", "null"]},
                            outcome={"enum": ["deployed", "canary", "failed", "restored", "undeployed"]},
                            at={"type": "number", "description": "Unix seconds."},
                            took_ms={"type": "number", "description": "From the save to the publication."},
                            files={"type": "array", "items": {"type": "string"}, "description": "What differed."},
                            error={"type": ["string", "null"]},
                        ),
                    },
                    saved={
                        "type": "array",
                        "items": object_schema(
                            ["revision", "served_at", "last_served_at", "load_ms", "ended", "files"],
                            revision={"type": "string"},
                            served_at={"type": "number", "description": "Unix seconds, for the first time."},
                            last_served_at={"type": "number", "description": "Unix seconds."},
                            load_ms={"type": "number"},
                            ended={"enum": ["replaced", "rolled back", "undeployed", "canary", "not promoted", None]},
                            files={"type": "array", "items": {"type": "string"}},
                        ),
                    },
                )
            },
        ),
        **error_responses(404, 503),
    },
)
