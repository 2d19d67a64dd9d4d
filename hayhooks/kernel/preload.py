"""Foundation: the parts of Haystack that wrappers import, there before the first of them is loaded.

A collection of garbage holds the interpreter, and every request with it: 58 ms with Haystack imported. Python can be
told to pass over all that there is at one moment, and then it takes 0.1; but what is passed over is never collected,
and revisions are to be. So that moment is the one before the first wrapper, and Haystack has to have come by then.
"""

import ast
import gc
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from loguru import logger as log

from hayhooks.kernel import haystack_hooks
from hayhooks.kernel.gc_control import gc_paused
from hayhooks.kernel.isolation import import_public
from hayhooks.kernel.shared_modules import imports_of, parsed
from hayhooks.kernel.state import Revision

_PACKAGES = ("haystack", "haystack_integrations")


class Preloader:
    """Lays the ground once, and lets wait for it what must not begin before.

    Args:
        freeze: whether this process is ours, so that we may say what its collections pass over. Otherwise there is
            nothing to lay.
        patience_s: when wrappers are loaded without it.
    """

    def __init__(self, *, freeze: bool, patience_s: float = 20.0) -> None:
        self._patience_s = patience_s
        self._lock = threading.Lock()  # guards all below
        self._laid = not freeze
        self._begun_at: float | None = None
        self._waiting: list[Callable[[], None]] = []

    def then(self, begin: Callable[[], None]) -> None:
        """Call *begin*, at once or when the ground is laid, in whatever thread."""
        with self._lock:
            if not self._laid:
                self._waiting.append(begin)
                return
        begin()

    def lay(self, revisions: Iterable[Revision]) -> None:
        """Import, in a thread apart, what of Haystack *revisions* import; from the second call on, nothing."""
        with self._lock:
            if self._laid or self._begun_at is not None:
                return
            self._begun_at = time.monotonic()
        threading.Thread(target=self._lay, args=(tuple(revisions),), name="hayhooks foundation", daemon=True).start()

    def tick(self) -> None:
        """Go on without, if it takes too long; to be called now and then."""
        with self._lock:
            is_late = self._begun_at is not None and time.monotonic() - self._begun_at > self._patience_s
            if self._laid or not is_late:
                return
        log.warning("What wrappers import of Haystack takes longer than {:g} s: loading them without", self._patience_s)
        gc.enable()  # the import that hangs would keep it off
        self._go_on()

    def _lay(self, revisions: Iterable[Revision]) -> None:
        try:
            with gc_paused():
                for name in sorted({name for revision in revisions for name in _imports(revision)}):
                    module, _, attribute = name.rpartition(".")
                    # It may not be there, or raise anything: the wrapper that imports it will tell.
                    with suppress(BaseException):
                        import_public(
                            module or attribute, haystack_hooks.install_hooks, (attribute,) if module else ("__name__",)
                        )
                with self._lock:
                    if not self._laid:
                        gc.freeze()  # without a collection before: that takes 0.1 s here, and finds a thousand objects
        finally:
            self._go_on()

    def _go_on(self) -> None:
        with self._lock:
            self._laid = True
            waiting, self._waiting = self._waiting, []
        for begin in waiting:
            begin()


def _imports(revision: Revision) -> Iterator[str]:
    """The dotted names that the code of *revision* imports from Haystack: at the top level of a module all of them.

    Of what is imported elsewhere, perhaps never, only what lies in ``haystack`` itself: some parts take seconds.
    """
    for path, file in revision.files.items():
        # What lies deeper may be scripts and tests, which nobody imports here.
        if "/" in path or not path.endswith(".py") or not file.source or b"haystack" not in file.source:
            continue
        tree = parsed(file.source, path)
        if tree is None:  # its load will tell
            continue
        yield from (name for name in _names(tree.body) if name.partition(".")[0] in _PACKAGES)
        yield from (name for name in _names(ast.walk(tree)) if (name.rpartition(".")[0] or name) == "haystack")


def _names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        yield from imports_of(node)[1]
