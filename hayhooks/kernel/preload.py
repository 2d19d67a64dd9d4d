"""Preload: import Haystack before the first load, outside garbage collections.

A full collection stops all threads for tens of milliseconds once Haystack is imported. After ``gc.freeze()``
collections skip the objects of that moment, which are never freed. So we freeze before the first wrapper is loaded.
"""

import ast
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from loguru import logger as log

from hayhooks.kernel.haystack_hooks import patch_haystack
from hayhooks.kernel.isolation import import_public
from hayhooks.kernel.shared_modules import imports_of, parsed
from hayhooks.kernel.state import Revision

_PACKAGES = ("haystack", "haystack_integrations")
_SLOW_S = 2.0


class Preloader:
    """The preload, once. It needs a process of our own, whose objects we may *freeze*."""

    def __init__(self, *, freeze: bool, stuck_after_s: float = 20.0) -> None:
        self._stuck_after_s = stuck_after_s  # after this time loads start without the preload
        self._lock = threading.Lock()  # guards everything below
        self._done = not freeze
        self._started_at: float | None = None
        self._waiting: list[Callable[[], None]] = []
        self._is_slow = False  # that has been logged

    @property
    def is_running(self) -> bool:
        """Whether loads wait for it."""
        return self._started_at is not None and not self._done

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call *callback* now or when the preload is done, in any thread."""
        with self._lock:
            if not self._done:
                self._waiting.append(callback)
                return
        callback()

    def start(self, revisions: Iterable[Revision]) -> None:
        """Import in a thread the parts of Haystack that *revisions* import, once."""
        with self._lock:
            if self._done or self._started_at is not None:
                return
            self._started_at = time.monotonic()
        thread = threading.Thread(target=self._preload, args=(tuple(revisions),), name="hayhooks preload", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system starts no more threads
            self._finish()

    def tick(self) -> None:
        """Continue without the preload if it is stuck, log that it is slow; call it about once a second."""
        with self._lock:
            if self._done or self._started_at is None:
                return
            age = time.monotonic() - self._started_at
            if age > _SLOW_S and not self._is_slow:
                self._is_slow = True
                log.info("Importing Haystack has taken {:.1f} s so far: the pipelines wait for it", age)
            if age <= self._stuck_after_s:
                return
        log.warning("Importing Haystack takes longer than {:g} s: loading wrappers meanwhile", self._stuck_after_s)
        gc.enable()  # the stuck import would keep it off
        self._finish()

    def _preload(self, revisions: Iterable[Revision]) -> None:
        enabled = gc.isenabled()
        gc.disable()  # imports make many objects and drop few: collections would take a fifth of the time
        try:
            for name in sorted({name for revision in revisions for name in _haystack_imports(revision)}):
                module, _, attribute = name.rpartition(".")
                # It may be missing or raise anything: the wrapper that imports it reports that.
                with suppress(BaseException):
                    import_public(module or attribute, patch_haystack, (attribute,) if module else ("__name__",))
            with self._lock:
                if not self._done:
                    gc.freeze()  # without a collection before, which would be long and find little
        finally:
            if enabled:
                gc.enable()
            self._finish()

    def _finish(self) -> None:
        with self._lock:
            self._done = True
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()


def _haystack_imports(revision: Revision) -> Iterator[str]:
    """Yield the dotted names that the code of *revision* imports from Haystack."""
    for path, file in revision.files.items():
        # Files further down may be scripts and tests that nobody imports here.
        if "/" in path or not path.endswith(".py") or not file.source or b"haystack" not in file.source:
            continue
        tree = parsed(file.source, path)
        if tree is None:  # its load reports the syntax error
            continue
        yield from (name for name in _names(tree.body) if name.partition(".")[0] in _PACKAGES)
        # Imports below the top level may never run, and some parts take seconds: only those of haystack itself count.
        yield from (name for name in _names(ast.walk(tree)) if (name.rpartition(".")[0] or name) == "haystack")


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        yield from imports_of(node)[1]
