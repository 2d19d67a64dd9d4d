"""Check files and address in the settings before the server starts."""

import socket
import ssl

from hayhooks.errors import StartError
from hayhooks.http.api_keys import ApiKeys
from hayhooks.settings import Settings


def check_settings(settings: Settings) -> None:
    """Check the files and the address in *settings*, or raise StartError."""
    ApiKeys(settings)
    _check_tls(settings)
    # Bind the address: uvicorn would report an error later, in asyncio's words.
    host, port = settings.host, settings.port
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


def _check_tls(settings: Settings) -> None:
    certfile, keyfile = settings.ssl_certfile, settings.ssl_keyfile
    if certfile is None:
        if keyfile is not None:
            raise StartError(f"HAYHOOKS_SSL_KEYFILE={keyfile}: HAYHOOKS_SSL_CERTFILE must be set too")
        return
    for setting, file in (("CERTFILE", certfile), ("KEYFILE", keyfile)):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:
            raise StartError(f"HAYHOOKS_SSL_{setting}={file}: {error.strerror}") from None
    # Without a password OpenSSL would prompt for one on the terminal.
    password = settings.ssl_keyfile_password or ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, lambda: password)
    except (ssl.SSLError, ValueError) as error:
        key = keyfile or certfile
        reason = getattr(error, "reason", None) or str(error)
        if reason == "KEY_VALUES_MISMATCH":
            message = f"the private key in {key} does not belong to it"
        elif b"ENCRYPTED" in key.read_bytes():  # OpenSSL does not report a wrong password as such
            message = f"the private key in {key} cannot be decrypted: HAYHOOKS_SSL_KEYFILE_PASSWORD is wrong or missing"
        else:
            files = f"{certfile} and {key}"
            message = f"no certificate chain with its private key in PEM format in {files} ({reason})"
        raise StartError(f"HAYHOOKS_SSL_CERTFILE={certfile}: {message}") from None
