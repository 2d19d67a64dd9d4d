"""API keys: which are valid, in the settings and in a file that is read again when it changes."""

import hashlib
import hmac
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hayhooks.errors import StartError
from hayhooks.kernel.state import Stamp
from hayhooks.observability.log import log
from hayhooks.settings import Settings

_LOOK_S = 0.5  # between two looks at the file; what changed in one is read when it has kept still to the next


class ApiKeys:
    """The valid API keys. Of a key only its digest is kept.

    Args:
        settings: name them, and the file where more of them lie.

    Raises:
        StartError: there is a file, and it cannot be read or holds no key; nobody shall be let in by that.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.api_keys_file and settings.api_keys_file.absolute()  # wrappers may change the directory
        self._settings = settings.model_copy(update={"api_keys_file": self._file})
        self._seen = self._stamp()
        self._known = self._seen  # what was read, or could not be
        try:
            self._digests = self._read()
        except (OSError, ValueError) as error:
            raise StartError(f"HAYHOOKS_API_KEYS_FILE={settings.api_keys_file}: {_reason(error)}") from None

    def __bool__(self) -> bool:
        """Whether a key is needed."""
        return bool(self._digests)

    def __contains__(self, key: bytes) -> bool:
        """Whether *key* is one of them; how long that takes says nothing of how near it was."""
        digest, found = _digest(key), False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Read the file again when it changes, in a thread, as long as this context lasts."""
        if self._file is None:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), name="hayhooks keys", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()

    def _follow(self, stop: threading.Event) -> None:
        while not stop.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        """Take what the file says now. What cannot be read, or holds no key, changes nothing and is told once."""
        seen, self._seen = self._seen, self._stamp()
        if self._seen == self._known or self._seen != seen:  # half of a key must not be one
            return
        self._known = self._seen
        try:
            self._digests = self._read()
        except (OSError, ValueError) as error:
            log.error("HAYHOOKS_API_KEYS_FILE={}: {}; the keys of before stay valid", self._file, _reason(error))
        else:
            log.info("The API keys were read again: {} are valid", len(self._digests))

    def _read(self) -> tuple[bytes, ...]:
        return tuple({_digest(key.encode()) for key in self._settings.valid_keys()})

    def _stamp(self) -> Stamp | None:
        """What tells that the file is still the same; None if it is not there."""
        try:
            return Stamp.of(self._file.stat()) if self._file is not None else None
        except OSError:
            return None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
