"""Switch: the live generation. A request reads it once, and so sees only one."""

import asyncio
from dataclasses import dataclass

from starlette.routing import Route, Router

from hayhooks.errors import UnavailableError
from hayhooks.kernel.reconcile import Reconciler
from hayhooks.kernel.state import Snapshot
from hayhooks.observability.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot with the router of the server's own routes."""

    snapshot: Snapshot
    router: Router
    exact: dict[str, Route]  # by path: the router's routes that need no pattern matching
    paths: frozenset[str]  # of the router's routes
    names: frozenset[str]  # their first segments


class Switch:
    """The live generation and the server's state; written on the event loop only."""

    def __init__(self, generation: Generation) -> None:
        self.live = generation  # what new requests are served from
        self.kernel: Reconciler | None = None  # while the application's lifespan runs
        self.metrics: Metrics | None = None  # if they are on
        self.stopping = False
        self._superseded = asyncio.Event()  # set when `live` is replaced

    def publish(self, generation: Generation) -> None:
        """Make *generation* live; earlier requests keep theirs."""
        self.live = generation
        superseded, self._superseded = self._superseded, asyncio.Event()
        superseded.set()

    @property
    def not_ready(self) -> str:
        """Why the server is not ready to serve: it stops, its deployer has ended, the directory cannot be read, ..."""
        snapshot = self.live.snapshot
        if self.stopping:
            return "the server is stopping"
        if self.kernel is not None and not self.kernel.alive:
            return "the deployer has ended: start the server again"
        return snapshot.problem or ("" if snapshot.ready else "the pipelines are being loaded for the first time")

    async def wait_until_known(self, name: str) -> Snapshot:
        """Return the live snapshot once it can tell whether *name* is served."""
        while True:
            snapshot = self.live.snapshot
            if snapshot.ready or name in snapshot.deployments or name in snapshot.failures:
                return snapshot
            if snapshot.scanned and name not in snapshot.loading:
                return snapshot
            await self._next()

    async def wait_until_ready(self) -> Snapshot:
        """Return the live snapshot once the first look at the directory is done."""
        while not self.live.snapshot.ready:
            await self._next()
        return self.live.snapshot

    async def wait_until_loaded(self) -> Snapshot:
        """Return the live snapshot once all that the first look found has been loaded, however long it takes."""
        while not self.live.snapshot.ready or self.live.snapshot.loading:
            await self._next()
        return self.live.snapshot

    async def _next(self) -> None:
        if self.kernel is None:
            raise UnavailableError(
                "hayhooks has not been started: the application that it is mounted in must run its lifespan"
            )
        await self._superseded.wait()
