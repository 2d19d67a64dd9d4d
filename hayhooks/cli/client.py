"""Client of the running server: its address, keys and status."""

import json
import os
import ssl
import stat
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
)

from hayhooks._version import __version__
from hayhooks.settings import Settings

if TYPE_CHECKING:
    import httpx

OWN_AGENT = "hayhooks/"  # with the version, the user agent of commands
IS_IT_RUNNING = "Is `hayhooks run` or `hayhooks dev` running there? (--port, HAYHOOKS_PORT)"

_TIMEOUT_S = 10


class NoAnswerError(Exception):
    """No usable answer; ``str()`` is the reason with advice."""


class RefusedByServerError(NoAnswerError):
    """A server answers, but requires another key or host name."""


class NotRunningError(NoAnswerError):
    """Nothing listens at the address."""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Why no server can be asked."""

    why: str
    is_down: bool = False  # nothing listens at the address
    is_refused: bool = False  # a server answers, but not to us: it may serve the directory


@dataclass(frozen=True, slots=True)
class Server:
    """The server at the address in *settings*."""

    settings: Settings

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        return f"http{'s' * self._is_https}://{self._address}:{self.settings.port}"

    def status(self) -> dict[str, Any]:
        """Return the body of ``/status``, or raise ``NoAnswerError``."""
        body = self._get("/status")
        if body is None or "deployments" not in body:
            raise NoAnswerError(f"No answer from {self.url}/status: that is not a hayhooks server")
        return body

    def state(self, name: str) -> dict[str, Any] | None:
        """Return the body of ``/status/{name}``; None if the server does not know it."""
        body = self._get(f"/status/{quote(name, safe='')}")
        return body if body and "state" in body else None

    def schema(self, name: str) -> dict[str, Any] | None:
        """Return the body of ``/{name}/schema``; None if there is none."""
        body = self._get(f"/{quote(name, safe='')}/schema")
        return body if body and "operations" in body else None

    def headers(self) -> dict[str, str]:
        """Return the headers of every request: our name, a key, and an allowed host name."""
        try:
            keys = self.settings.valid_keys()
        except (OSError, ValueError) as error:
            why = (error.strerror or error) if isinstance(error, OSError) else error
            raise NoAnswerError(f"HAYHOOKS_API_KEYS_FILE={self.settings.api_keys_file}: {why}") from None
        headers = {"User-Agent": f"{OWN_AGENT}{__version__}"}
        if keys:
            headers["Authorization"] = f"Bearer {keys[0].key}"
        allowed = self.settings.allowed_hosts
        if "*" not in allowed and self._address not in allowed:
            headers["Host"] = allowed[0].replace("*", "hayhooks")  # any name matches the wildcard
        return headers

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to verify the server's certificate; None without TLS."""
        if not self._is_https:
            return None
        if self.settings.disable_ssl:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        certificate = self.settings.ssl_certfile
        if certificate is None:
            return ssl.create_default_context()
        try:  # only the first certificate in the file is trusted, whoever signed it for which name
            first, end, _ = certificate.read_text().partition("-----END CERTIFICATE-----")
            context = ssl.create_default_context(cadata=first[first.find("-----BEGIN") :] + end)
        except (OSError, ValueError) as error:
            raise NoAnswerError(f"HAYHOOKS_SSL_CERTFILE={certificate}: cannot be used: {error}") from None
        context.check_hostname = False  # commands use the address
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be self-signed
        return context

    def http_client(self, timeout_s: float | None) -> "httpx.Client":
        """Return an HTTP client that sends the headers; *timeout_s* bounds each pause, None nothing.

        A proxy or a .netrc file of the environment is not for our server, nor its key.
        """
        import httpx  # noqa: PLC0415 - it takes longer than the commands that only ask for the state

        verify = self.tls_context()
        return httpx.Client(headers=self.headers(), verify=verify or True, timeout=timeout_s, trust_env=False)

    @property
    def _address(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return f"[{host}]" if ":" in host else host

    @property
    def _is_https(self) -> bool:
        return self.settings.use_https or self.settings.ssl_certfile is not None

    def _get(self, path: str) -> dict[str, Any] | None:
        """Return the JSON object at *path*, whatever its status; None for another body."""
        # The standard library's client: importing httpx would take longer than the whole command.
        url = self.url + path
        try:
            request = Request(url, headers=self.headers())  # noqa: S310 - the scheme is ours
            with _opener(self.tls_context()).open(request, timeout=_TIMEOUT_S) as response:
                return _json_object(response.read())
        except HTTPError as error:
            if error.code in (401, 403):
                raise RefusedByServerError(
                    f"{url} requires an API key: set HAYHOOKS_API_KEYS to one of the server's keys"
                ) from None
            body = _json_object(error.read())
            if error.code == 400 and "HAYHOOKS_ALLOWED_HOSTS" in str(body):
                raise RefusedByServerError(
                    f"{url} does not allow this host name: set HAYHOOKS_ALLOWED_HOSTS to the server's value"
                ) from None
            return body
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            advice = IS_IT_RUNNING
            may_be_tls = isinstance(reason, ConnectionError) and not isinstance(reason, ConnectionRefusedError)
            if isinstance(reason, ssl.SSLCertVerificationError):
                advice = "Set HAYHOOKS_SSL_CERTFILE to a certificate to trust"
            elif url.startswith("http:") and may_be_tls:
                advice = "If it serves TLS, set HAYHOOKS_USE_HTTPS=true, or HAYHOOKS_SSL_CERTFILE to its certificate"
            kind = NotRunningError if isinstance(reason, ConnectionRefusedError) else NoAnswerError
            raise kind(f"No answer from {url}: {reason}. {advice}") from None


def _opener(context: ssl.SSLContext | None) -> OpenerDirector:
    """Return an opener without proxies and redirects: the key is for our server alone."""
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    if context is not None:
        opener.add_handler(HTTPSHandler(context=context))
    return opener


def find_server(root: Path, settings: Settings) -> Server | Unreachable:
    """Find the server that serves *root*, or the reason why none can be asked."""
    server = Server(settings)
    try:
        directory = server.status().get("directory")
    except NoAnswerError as error:
        is_down, is_refused = isinstance(error, NotRunningError), isinstance(error, RefusedByServerError)
        return Unreachable(str(error), is_down=is_down, is_refused=is_refused)
    if directory is None:
        return Unreachable(f"The server at {server.url} cannot read its pipelines directory")
    with suppress(OSError):
        status = os.stat(root)  # compared by identity: in a container the directory has another path
        if (status.st_dev, status.st_ino) == (directory["device"], directory["inode"]):
            return server
    return Unreachable(f"The server at {server.url} serves {directory['path']}, not {root}")


def with_python_path_of_server(settings: Settings) -> Settings:
    """Return *settings* with the directories of shared modules of the server that serves the pipelines directory.

    They stay as they are where no server runs, or where its directories are not here, as with one in a container, or
    belong to strangers: anybody on this machine may listen at the address.
    """
    server = find_server(settings.pipelines_dir.absolute(), settings)
    if isinstance(server, Unreachable):
        return settings
    directories = server.status().get("additional_python_path")
    if directories is None:
        return settings
    owners = {0, os.geteuid(), os.stat(settings.pipelines_dir).st_uid}
    try:
        statuses = [os.stat(directory) for directory in directories]
    except OSError:
        return settings
    if not all(stat.S_ISDIR(status.st_mode) and status.st_uid in owners for status in statuses):
        return settings
    return settings.model_copy(update={"additional_python_path": os.pathsep.join(directories)})


def differing_workers(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the workers in a body of ``/status``, or the replicas on Ray, that serve different revisions."""
    groups: dict[str | None, list[dict[str, Any]]] = {}
    for each in (*status.get("workers", []), *status.get("replicas", [])):
        groups.setdefault(each.get("ray_deployment"), []).append(each)
    differing = [group for group in groups.values() if len({each["revision"] for each in group}) > 1]
    return [each for group in differing for each in group]


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
