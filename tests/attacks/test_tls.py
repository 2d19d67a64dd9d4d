"""TLS: the handshake has a limit, and no client that is silent delays the stop."""

import socket
import ssl
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.attacks.test_slow_readers import is_reset
from tests.attacks.wire import Responses, get, post
from tests.cli.processes import started
from tests.live_server import ECHO, eventually, replace
from tests.network import connected


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """The settings of a server with TLS."""
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    replace(tmp_path / "pipelines/echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    return {"SSL_CERTFILE": str(tmp_path / "server.pem")}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_handshake_that_is_not_completed_is_ended(tmp_path: Path, tls: dict[str, Any], workers: str):
    with (
        started(tmp_path, "run", cafile=tmp_path / "ca.pem", READ_TIMEOUT="1", WORKERS=workers, **tls) as server,
        ExitStack() as stack,
    ):
        connections = {sent: stack.enter_context(connected(server.port)) for sent in (b"", b"\x16\x03\x01", b"GET")}
        begun = time.monotonic()
        for sent, connection in connections.items():
            connection.sendall(sent)
        for sent, connection in connections.items():
            assert connection.recv(1 << 16) == b"" or sent == b"GET"  # that is answered by an alert
        assert time.monotonic() - begun < 30


LARGE = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self) -> str:
        return "x" * 20_000_000
"""


@pytest.mark.parametrize("protocol", ["fast", "plain"])
@pytest.mark.parametrize("limit", ["WRITE_TIMEOUT", "REQUEST_TIMEOUT"])
def test_a_client_that_does_not_read_is_ended(tmp_path: Path, tls: dict[str, Any], protocol: str, limit: str):
    """One that would keep its connection, and one that would not."""
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    replace(tmp_path / "pipelines/large/pipeline_wrapper.py", LARGE)
    settings: dict[str, Any] = {"FAST_PROTOCOL": str(protocol == "fast"), limit: "1", **tls}
    with (
        started(tmp_path, "run", cafile=tmp_path / "ca.pem", **settings) as server,
        connected(server.port, receive_buffer=4096) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as keeping,
        connected(server.port, receive_buffer=4096) as other_raw,
        context.wrap_socket(other_raw, server_hostname="127.0.0.1") as closing,
    ):
        eventually(lambda: len(server.get("/status").json()["pipelines"]) == 2)
        keeping.sendall(post("/large/run", b"{}"))
        closing.sendall(post("/large/run", b"{}", "Connection: close"))
        for connection in (keeping, closing):
            eventually(partial(is_reset, connection), "the connection to be ended")


@pytest.mark.parametrize("protocol", ["fast", "plain"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_idle_connections_do_not_delay_the_stop(tmp_path: Path, tls: dict[str, Any], protocol: str, workers: str):
    """One that was used, one that was not, and one in the handshake; none of them answers the end of TLS."""
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    settings: dict[str, Any] = {"FAST_PROTOCOL": str(protocol == "fast"), "WORKERS": workers, **tls}
    with (
        started(tmp_path, "run", cafile=tmp_path / "ca.pem", **settings) as server,
        connected(server.port) as raw,
        connected(server.port),
        context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="127.0.0.1") as used,
        context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="127.0.0.1"),
    ):
        used.sendall(get("/healthz"))
        assert Responses(used).next()[0] == 200
        raw.sendall(b"\x16\x03\x01")
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 25
