"""Watch: tell that something may have changed. A tick is a hint, never the truth.

Events can be lost (network mounts, a full inotify queue, a change made before the watch began), a fresh look
cannot: so there is a tick without a hint at least every look-around time, whatever the file system says.
"""

import threading
from collections.abc import Callable, Mapping

from watchfiles import watch

from hayhooks.logger import log


class Watch:
    """Watches directories in a thread of its own, and tells the paths that changed.

    The thread is ours, and the watch the synchronous one: ``awatch`` borrows from the thread pool that requests use,
    and starved with 60 of them blocked.

    Args:
        tell: called in that thread with the changed paths, or with none after the look-around time.
        look_around_s: the longest time between two ticks.
        step_ms: how long a burst of events must pause before it is told: what a save costs at the least.
    """

    def __init__(self, tell: Callable[[frozenset[str]], None], *, look_around_s: float, step_ms: int = 10) -> None:
        self._tell = tell
        self._look_around_s = look_around_s
        self._step_ms = step_ms
        self._directories: Mapping[str, tuple[int, int]] = {}
        self._renew = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="hayhooks watch", daemon=True)

    def start(self) -> None:
        """Begin to tell; until ``follow`` is called, only every look-around time."""
        self._thread.start()

    def follow(self, directories: Mapping[str, tuple[int, int]]) -> None:
        """Watch *directories* (real path: device and inode) from now on, not what lies below them.

        The identities make a directory that was replaced by another of its name a new one to watch.
        """
        if directories != self._directories:
            self._directories = directories
            self._renew.set()

    def stop(self) -> None:
        """End the thread, within some milliseconds."""
        self._stopped = True
        self._renew.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stopped:
            self._renew.clear()
            try:
                self._watch_once(tuple(self._directories))
            except Exception as error:  # whatever the file system does not support, looking around still works
                log.warning(
                    "Cannot watch for changes ({}): looking around every {:g} s instead", error, self._look_around_s
                )
                self._renew.wait(self._look_around_s)
            if not self._stopped:
                self._tell(frozenset())  # what happened while no watch was on

    def _watch_once(self, directories: tuple[str, ...]) -> None:
        """Tell of changes in *directories* until others are to be watched."""
        if not directories:
            self._renew.wait(self._look_around_s)
            return
        for changes in watch(
            *directories,
            stop_event=self._renew,
            watch_filter=None,  # the default one drops dot names, and with them a ConfigMap's swap
            step=self._step_ms,
            debounce=400,
            rust_timeout=int(self._look_around_s * 1000),
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
            raise_interrupt=False,
        ):
            self._tell(frozenset(path for _, path in changes))
