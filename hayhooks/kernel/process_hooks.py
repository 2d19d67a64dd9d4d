"""Process hooks: the process-wide effects of serving, installed together."""

import threading
from collections.abc import Sequence
from typing import Self

from hayhooks.kernel.haystack_hooks import patch_haystack, restore_from_dict
from hayhooks.kernel.isolation import (
    add_python_path,
    keep_import_thread,
    remove_finder,
    remove_python_path,
    stop_import_thread,
)
from hayhooks.kernel.self_writes import self_writes
from hayhooks.kernel.threads import server_threads

_lock = threading.Lock()
_installed: list["ProcessHooks"] = []  # one for each application that runs in this process


class ProcessHooks:
    """The process-wide effects of serving; the last application that ends undoes them.

    - A finder in ``sys.meta_path``: it imports the private packages of revisions (``open_package`` installs it).
    - *python_path* in ``sys.path``, and a finder before Python's: shared modules are compiled from source, in versions.
    - A patch of Haystack's ``Pipeline.from_dict``: YAML of a wrapper names components beside it (``haystack_hooks``).
    - An audit hook: a wrapper's writes into its own folder must not reload it. Python keeps it, without effect.
    - A thread that imports public modules: Haystack's lazy imports break when two threads run them (``isolation``).

    ``hayhooks.server.process`` adds those that only a process of our own gets.
    """

    def __init__(self, python_path: Sequence[str] = ()) -> None:
        self.python_path = tuple(python_path)

    def install(self) -> None:
        """Install all of it. Raises UnavailableError if there are no threads."""
        with _lock:
            _installed.append(self)
            keep_import_thread()
            server_threads.keep_thread()
            self_writes.install_audit_hook()
            add_python_path(self.python_path, after_import=patch_haystack)
            patch_haystack()

    def uninstall(self) -> None:
        """Undo all that no other application needs."""
        with _lock:
            _installed.remove(self)
            needed = {root for hooks in _installed for root in hooks.python_path}
            remove_python_path([root for root in self.python_path if root not in needed])
            if not _installed:
                self_writes.uninstall_audit_hook()
                restore_from_dict()
                remove_finder()
                stop_import_thread()
                server_threads.close()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        self.uninstall()
