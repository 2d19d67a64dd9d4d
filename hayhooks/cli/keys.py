"""Keys of ``hayhooks dev``: a letter and Enter, so that ``breakpoint()`` goes on working."""

import os
import signal
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hayhooks.app import Hayhooks
from hayhooks.cli.dev_output import DevOutput
from hayhooks.cli.keyboard import Keyboard

_MOST_NAMES = 20  # in one line


def open_page(page: str, output: DevOutput) -> None:
    """Open *page* in the browser, or say that there is none."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        browser = None
    # One that would draw its page in this terminal is none, unless somebody has chosen it.
    if browser is None or (type(browser) is webbrowser.GenericBrowser and "BROWSER" not in os.environ):
        output.show(f"  There is no browser here: open {page}", "dim", indent=2)
        return
    threading.Thread(target=browser.open, args=(page,), name="hayhooks browser", daemon=True).start()


@contextmanager
def keys_read(app: Hayhooks, page: str, output: DevOutput) -> Iterator[None]:
    """Read the keys until the block ends, if *output* names them; ``o`` opens *page*."""
    if not output.has_keys:
        yield
        return
    is_over = threading.Event()
    with Keyboard(Keys(app, page, output), is_over.is_set).shared():
        try:
            yield
        finally:
            is_over.set()


class Keys:
    """What the keys do: a line of text is the key, and perhaps a name."""

    def __init__(self, app: Hayhooks, page: str, output: DevOutput) -> None:
        self._app = app
        self._page = page
        self._output = output
        self._actions: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "h": ("", "list the keys", self._help),
            "o": ("", f"open {self._page} in the browser", lambda _: open_page(self._page, output)),
            "r": (" NAME", "load NAME again, though nothing has changed", self._reload),
            "t": ("", "print the whole traceback of the last failure", lambda _: output.show_last_traceback()),
            "c": ("", "clear the screen", lambda _: output.console.clear()),
            "q": ("", "quit; again: at once", self._quit),
        }

    def __call__(self, line: str) -> None:
        """Obey *line*; an empty one does nothing."""
        key, _, rest = line.partition(" ")
        if not key:
            return
        if key.lower() not in self._actions or (rest and key.lower() != "r"):
            self._show(f"No key: {line[:40]!r}. h + Enter lists the keys")
            return
        self._actions[key.lower()][2](rest.strip())

    def _show(self, text: str) -> None:
        self._output.show(f"  {text}", "dim", indent=2)

    def _help(self, _: str) -> None:
        for key, (argument, what, _action) in self._actions.items():
            self._show(f"{key}{argument:<6} {what}")
        self._show("Each with Enter. input() and breakpoint() of a wrapper get the lines that they wait for.")

    def _quit(self, _: str) -> None:
        while self._app.reconciler is None:  # before it the server does not handle signals
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT if self._app.switch.stopping else signal.SIGTERM)

    def _reload(self, name: str) -> None:
        reconciler = self._app.reconciler
        snapshot = reconciler.snapshot if reconciler is not None else None
        names = sorted({*snapshot.deployments, *snapshot.failures, *snapshot.loading}) if snapshot else []
        if not name and len(names) == 1:
            name = names[0]
        if reconciler is not None and name in names:
            reconciler.reload(name)
            return
        listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        problem = f"There is no pipeline {name[:40]!r}" if name else "r needs a name"
        self._show(f"{problem}; there are: {listed}" if names else "There is no pipeline yet")
