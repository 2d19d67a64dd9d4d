"""Retire: tear replaced deployments down after their last request, and give their memory back."""

import gc
import threading
import time
from collections.abc import Callable

from hayhooks.kernel.crew import Crew
from hayhooks.kernel.snapshot import Deployment
from hayhooks.logger import log

# One gc.collect takes up to 70 ms with Haystack loaded, in which nothing else runs: one for all that retire together,
# and not while somebody waits for the answer to a save.
_QUIET_S = 0.5
_PATIENCE_S = 2.0  # but memory is given back after this long, however busy it gets


class Retirement:
    """Where deployments go that no new request can reach.

    Args:
        unload: tears one down; runs in a thread of the retirement's own.
    """

    def __init__(self, unload: Callable[[Deployment], None]) -> None:
        self._unload = unload
        self._crew = Crew("retire", limit=2, patience_s=1.0)
        self._changed = threading.Condition()
        self._pending = 0
        self._collect_at = 0.0
        self._collect_by: float | None = None  # None: nothing is to be collected

    @property
    def pending(self) -> int:
        """How many deployments still have requests, or are being torn down."""
        return self._pending

    def add(self, deployment: Deployment) -> None:
        """Tear *deployment* down when its last lease is given back. To be called when it is out of every router."""
        with self._changed:
            self._pending += 1
        deployment.leases.release_when_idle(lambda: self._crew.submit(lambda: self._retire(deployment)))

    def relieve(self) -> None:
        """Go on with the others when some teardowns hang; to be called now and then."""
        self._crew.relieve()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is pending; False if that did not happen in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout_s)

    def _retire(self, deployment: Deployment) -> None:
        try:
            self._unload(deployment)
        except Exception:  # a fault of ours; it must not keep the server from stopping
            log.exception("Retiring {} failed", deployment.name)
        del deployment
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()
            now = time.monotonic()
            self._collect_at = now + _QUIET_S
            begin = self._collect_by is None
            self._collect_by = self._collect_by or now + _PATIENCE_S
        if begin:
            threading.Thread(target=self._collect, name="hayhooks collect", daemon=True).start()

    def _collect(self) -> None:
        """Collect the cycles of what was retired, once the batch is complete: classes and modules are made of them."""
        while True:
            with self._changed:
                assert self._collect_by is not None
                wait_s = min(self._collect_at, self._collect_by) - time.monotonic()
                if wait_s <= 0:
                    self._collect_by = None
                    break
            time.sleep(wait_s)
        gc.collect()
