"""Standard streams: a wrapper may close them, or whoever starts the server, which must work all the same."""

import os
import sys
from contextlib import suppress

_DESCRIPTORS = {"stdin": 0, "stdout": 1, "stderr": 2}
STANDARD_DESCRIPTORS = frozenset(_DESCRIPTORS.values())


def reopen_streams() -> list[str]:
    """Reopen those of descriptors 0 to 2, ``sys.stdout`` and ``sys.stderr`` that are closed; return their names."""
    restored = restore_descriptors()
    closed = [name for name in ("stdout", "stderr") if getattr(getattr(sys, name), "closed", True)]
    for name in closed:
        try:
            stream = os.fdopen(os.dup(_DESCRIPTORS[name]), "w", buffering=1, errors="backslashreplace")
        except OSError:  # too many files are open
            stream = open(os.devnull, "w")  # noqa: SIM115 - it stays open
        setattr(sys, name, stream)
    return [name for name, descriptor in _DESCRIPTORS.items() if name in closed or descriptor in restored]


def restore_descriptors() -> list[int]:
    """Open /dev/null in place of descriptors 0 to 2 that are closed, and return these.

    The system gives the lowest free number to what is opened next: what is printed would go into a client's connection.
    """
    restored: list[int] = []
    with suppress(OSError):  # too many files are open
        while (descriptor := os.open(os.devnull, os.O_RDWR)) in STANDARD_DESCRIPTORS:
            os.set_inheritable(descriptor, True)
            restored.append(descriptor)
        os.close(descriptor)
    return restored


def take_back(descriptor: int) -> None:
    """Open /dev/null in place of what has got the number *descriptor*, and close that."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, descriptor)
    os.close(null)
