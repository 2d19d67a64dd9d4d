"""Forks: the child of a wrapper keeps no sockets and no signal handling of the server.

multiprocessing forks by default up to Python 3.13. A child that kept the listening socket and the clients' connections
would hold the port when the server has ended, and clients would wait for the end of their responses.
"""

import asyncio
import os
import resource
import signal
import socket
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import uvicorn

_TCP = (socket.AF_INET, socket.AF_INET6)
_DEFAULT_HANDLERS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class ServedPorts:
    """The TCP ports that the running event loop serves, and what a forked child must do about them."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        addresses = [listener.getsockname() for listener in listeners]
        self.ports = frozenset(address[1] for address in addresses if isinstance(address, tuple))
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        _served.append(self)

    def forget(self) -> None:
        """Let later children be as they are: the ports are no longer served."""
        _served.remove(self)

    def leave(self) -> None:
        """End the child when its code returns to the event loop, which is the parent's."""
        if threading.get_ident() == self._thread:
            self._loop.call_soon(os._exit, 0)


_served: list[ServedPorts] = []


def _leave_servers() -> None:
    """Close in a forked child what is the server's of its parent."""
    served, _served[:] = list(_served), []
    if not served:
        return
    for number, default in _DEFAULT_HANDLERS.items():
        if isinstance(getattr(signal.getsignal(number), "__self__", None), uvicorn.Server):
            signal.signal(number, default)
            signal.set_wakeup_fd(-1)  # else signals of the child would wake the parent's event loop
    for each in served:
        each.leave()
    for descriptor in _sockets_at(frozenset[int]().union(*(each.ports for each in served))):
        os.close(descriptor)
        with suppress(OSError):
            # The child's copy of the event loop may use the number, which must not become another file.
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor, inheritable=False)
                os.close(null)


def _sockets_at(ports: frozenset[int]) -> Iterator[int]:
    """Yield the descriptors that are TCP sockets of *ports*: listening ones, and those of clients."""
    try:
        descriptors: Iterable[int] = [int(name) for name in os.listdir("/dev/fd")]  # on Linux and macOS
    except OSError:  # no descriptor is left to look with
        descriptors = range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for descriptor in descriptors:
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            connection = socket.socket(fileno=descriptor)
            try:
                is_served = connection.family in _TCP and connection.getsockname()[1] in ports
            finally:
                connection.detach()
            if is_served:
                yield descriptor


os.register_at_fork(after_in_child=_leave_servers)  # for good; it does nothing where nothing is served
