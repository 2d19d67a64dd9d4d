"""Check files and address in the settings before the server starts."""

import socket
import ssl
from pathlib import Path

from hayhooks.errors import StartError
from hayhooks.http.access import ApiKeys
from hayhooks.settings import Settings


def check_settings(settings: Settings) -> None:
    """Check the files and the address in *settings*.

    Raises:
        StartError: one of them cannot be used; the message names the setting.
    """
    ApiKeys(settings)
    _check_tls(settings)
    _check_address(settings.host, settings.port)


def _check_tls(settings: Settings) -> None:
    certfile, keyfile = settings.ssl_certfile, settings.ssl_keyfile
    if certfile is None:
        if keyfile is not None:
            raise StartError(f"HAYHOOKS_SSL_KEYFILE={keyfile}: HAYHOOKS_SSL_CERTFILE must be set too")
        return
    for setting, file in (("CERTFILE", certfile), ("KEYFILE", keyfile)):
        if file is not None:
            _check_readable(f"HAYHOOKS_SSL_{setting}={file}", file)
    # Without a password OpenSSL would prompt for one on the terminal.
    password = settings.ssl_keyfile_password or ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, lambda: password)
    except (ssl.SSLError, ValueError) as error:
        raise StartError(f"HAYHOOKS_SSL_CERTFILE={certfile}: {_tls_reason(error, certfile, keyfile)}") from None


def _check_readable(setting: str, file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise StartError(f"{setting}: {error.strerror}") from None


def _tls_reason(error: Exception, certfile: Path, keyfile: Path | None) -> str:
    key = keyfile or certfile
    reason = getattr(error, "reason", None) or str(error)
    if reason == "KEY_VALUES_MISMATCH":
        return f"the private key in {key} does not belong to it"
    if b"ENCRYPTED" in key.read_bytes():  # OpenSSL does not report a wrong password as such
        return f"the private key in {key} cannot be decrypted: HAYHOOKS_SSL_KEYFILE_PASSWORD is wrong or missing"
    return f"there is no certificate chain with its private key in PEM format in {certfile} and {key} ({reason})"


def _check_address(host: str, port: int) -> None:
    """Bind the address once: uvicorn would report an error later, in asyncio's words."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # as asyncio does
            probe.bind(address)
    except OSError as error:
        reason = str(error.strerror or error).lower()
        raise StartError(
            f"cannot listen on {host}:{port}: {reason}; choose another HAYHOOKS_HOST or HAYHOOKS_PORT (--port)"
        ) from None
