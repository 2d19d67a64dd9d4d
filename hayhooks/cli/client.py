"""What commands ask of a running server, and whether one runs."""

import json
import os
import ssl
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from hayhooks.settings import Settings

_TIMEOUT_S = 10


class NoAnswerError(Exception):
    """Nobody answers there, or somebody who is no hayhooks server, or who wants another key; ``str()`` says which."""


class LockedError(NoAnswerError):
    """A server answers, and wants another key, or to be called by another name."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """That no server can be asked."""

    why: str
    is_locked: bool = False  # there may well be one that serves the directory, but it refuses to tell


@dataclass(frozen=True, slots=True)
class Server:
    """The server that listens where *settings* say, if there is one."""

    settings: Settings

    @property
    def url(self) -> str:
        """Where it is, without a slash at the end."""
        return f"http{'s' * self._is_https}://{self._address}:{self.settings.port}"

    def status(self) -> dict[str, Any]:
        """The body of ``/status``.

        Raises:
            NoAnswerError: there is none to be had.
        """
        body = self._get("/status")
        if body is None or "deployments" not in body:
            raise NoAnswerError(f"No answer from {self.url}/status: that is no hayhooks server")
        return body

    def state(self, name: str) -> dict[str, Any] | None:
        """The body of ``/status/{name}``; None if the server knows nothing of that name.

        Raises:
            NoAnswerError: as ``status``.
        """
        body = self._get(f"/status/{quote(name, safe='')}")
        return body if body and "state" in body else None

    def headers(self) -> dict[str, str]:
        """What every request must bring: a key, where keys are set, and a name that is allowed, where some are.

        Raises:
            NoAnswerError: the file with the keys cannot be read, or holds none.
        """
        try:
            keys = self.settings.valid_keys()
        except (OSError, ValueError) as error:
            why = (error.strerror or error) if isinstance(error, OSError) else error
            raise NoAnswerError(f"HAYHOOKS_API_KEYS_FILE={self.settings.api_keys_file}: {why}") from None
        headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
        allowed = self.settings.allowed_hosts
        if "*" not in allowed and self._address not in allowed:
            headers["Host"] = allowed[0].replace("*", "hayhooks")  # it may stand for any name
        return headers

    def trust(self) -> ssl.SSLContext | None:
        """How the server's certificate is verified; None where it has none.

        Raises:
            NoAnswerError: the file with the certificate cannot be used.
        """
        if not self._is_https:
            return None
        if self.settings.disable_ssl:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        certificate = self.settings.ssl_certfile
        return ssl.create_default_context() if certificate is None else _trust_in(certificate)

    @property
    def _address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def _is_https(self) -> bool:
        return self.settings.use_https or self.settings.ssl_certfile is not None

    def _get(self, path: str) -> dict[str, Any] | None:
        """The JSON object at *path*, whatever its status; None if it is none."""
        # The standard library's client: importing httpx would take longer than the whole command.
        url = self.url + path
        try:
            request = Request(url, headers=self.headers())  # noqa: S310 - the scheme is ours
            with urlopen(request, timeout=_TIMEOUT_S, context=self.trust()) as response:  # noqa: S310 - as above
                return _object(response.read())
        except HTTPError as error:
            if error.code in (401, 403):
                raise LockedError(f"{url} wants a key: set HAYHOOKS_API_KEYS to one that it knows") from None
            body = _object(error.read())
            if error.code == 400 and "HAYHOOKS_ALLOWED_HOSTS" in str(body):
                raise LockedError(
                    f"{url} is called by another name: set HAYHOOKS_ALLOWED_HOSTS as it is there"
                ) from None
            return body
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            raise NoAnswerError(f"No answer from {url}: {reason}. {_advice(url, reason)}") from None


def _advice(url: str, reason: object) -> str:
    """What to do about a request that failed for *reason*."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "HAYHOOKS_SSL_CERTFILE names a certificate to trust"
    if (
        url.startswith("http:")
        and isinstance(reason, ConnectionError)
        and not isinstance(reason, ConnectionRefusedError)
    ):
        return "If it serves TLS, set HAYHOOKS_USE_HTTPS=true, or HAYHOOKS_SSL_CERTFILE to its certificate"
    return "Is `hayhooks run` running there?"


def serving(root: Path, settings: Settings) -> Server | Unreachable:
    """The server that serves the pipelines directory *root*, or why none can be asked."""
    server = Server(settings)
    try:
        directory = server.status().get("directory")
    except NoAnswerError as error:
        return Unreachable(str(error), isinstance(error, LockedError))
    if directory is None:
        return Unreachable(f"The server at {server.url} does not say which directory it serves, or cannot read it")
    if not _is(root, directory):
        return Unreachable(f"The server at {server.url} serves {directory['path']}, and not {root}")
    return server


def differing_workers(status: dict[str, Any]) -> list[dict[str, Any]]:
    """The workers in the body of ``/status``, if they do not all serve the same: a request meets any of them."""
    workers: list[dict[str, Any]] = status.get("workers", [])
    return workers if len({worker["revision"] for worker in workers}) > 1 else []


def _trust_in(certificate: Path) -> ssl.SSLContext:
    """Accept the first certificate in that file, the server's own, and no other, whoever signed it for which name."""
    try:
        first, end, _ = certificate.read_text().partition("-----END CERTIFICATE-----")
        context = ssl.create_default_context(cadata=first[first.find("-----BEGIN") :] + end)
    except (OSError, ValueError) as error:
        raise NoAnswerError(f"HAYHOOKS_SSL_CERTFILE={certificate} cannot be used: {error}") from None
    context.check_hostname = False  # we call it by its address
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be signed by itself
    return context


def _is(root: Path, directory: dict[str, Any]) -> bool:
    """Whether the server's *directory* is *root*: by identity, for in a container it has another path."""
    try:
        status = os.stat(root)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (directory["device"], directory["inode"])


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
