"""Switch: which generation is live. A request reads it once, so it never sees halves of two generations."""

import asyncio
from dataclasses import dataclass

from starlette.routing import Router

from hayhooks.errors import UnavailableError
from hayhooks.kernel.reconcile import Reconciler
from hayhooks.kernel.state import Snapshot
from hayhooks.observability.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot with the router of the server's own routes."""

    snapshot: Snapshot
    router: Router
    paths: frozenset[str]  # of the router's routes


class Switch:
    """Holds the live generation, and what else requests can see of the server; written on the event loop only."""

    def __init__(self, generation: Generation) -> None:
        self.live = generation  # what new requests are served from
        self.kernel: Reconciler | None = None  # while the application's lifespan runs
        self.metrics: Metrics | None = None  # if they are on
        self.stopping = False
        self._superseded = asyncio.Event()  # set when `live` is replaced

    def publish(self, generation: Generation) -> None:
        """Make *generation* live; on the event loop. Requests that began before keep the one that they read."""
        self.live = generation
        superseded, self._superseded = self._superseded, asyncio.Event()
        superseded.set()

    async def wait_until_known(self, name: str) -> Snapshot:
        """Return the live snapshot once it can tell what *name* is; at server start that may take a load.

        Raises:
            UnavailableError: it never will, because the application's lifespan does not run.
        """
        while True:
            snapshot = self.live.snapshot
            if snapshot.ready or name in snapshot.deployments or name in snapshot.failures:
                return snapshot
            if snapshot.scanned and name not in snapshot.loading:
                return snapshot
            if self.kernel is None:
                raise UnavailableError(
                    "hayhooks has not been started: the application that it is mounted in must run its lifespan"
                )
            await self._superseded.wait()
