"""Leases: who still works with a deployment, and what happens when nobody does."""

import threading
from collections.abc import Callable


class Leases:
    """The holds on one deployment: one for each request, from its dispatch to its last byte.

    Safe from any thread. Leases may be taken after ``release_when_idle`` too, as long as one is held: a request
    that runs may start a thread, which takes a lease of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = 0
        self._on_idle: Callable[[], None] | None = None

    @property
    def held(self) -> int:
        """How many leases are held now."""
        return self._held

    def take(self) -> None:
        """Keep the deployment from being retired until ``give_back``."""
        with self._lock:
            self._held += 1

    def give_back(self) -> None:
        """End a lease; the last one of a replaced deployment sets its retirement off."""
        with self._lock:
            self._held -= 1
            on_idle = self._take_callback()
        if on_idle is not None:
            on_idle()

    def release_when_idle(self, on_idle: Callable[[], None]) -> None:
        """Call *on_idle* once, as soon as no lease is held: at once, or when the last one is given back.

        To be called when no new request can reach the deployment any more.
        """
        with self._lock:
            self._on_idle = on_idle
            idle = self._take_callback()
        if idle is not None:
            idle()

    def _take_callback(self) -> Callable[[], None] | None:
        if self._held > 0:
            return None
        on_idle, self._on_idle = self._on_idle, None
        return on_idle
