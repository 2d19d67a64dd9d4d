"""Request lines and framings that a proxy may read otherwise, and texts of clients in the log."""

from collections.abc import Iterator

import pytest

from tests.attacks.wire import PROTOCOLS, Responses, Wire, chunked, post, wired
from tests.live_server import replace

FAILS = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self, text: str):
        raise ValueError(text)
"""


@pytest.fixture(scope="module")
def wire(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("lines")
    replace(folder / "pipelines/fails/pipeline_wrapper.py", FAILS)
    with wired(folder, protocol) as wire:
        yield wire


def status_of(wire: Wire, request: bytes) -> int:
    with wire.connected() as connection:
        connection.sendall(request)
        return Responses(connection).next()[0]


@PROTOCOLS
@pytest.mark.parametrize("target", ["xecho/run", "?echo/run", "echo/run", "*", "*echo/run"])
def test_a_target_without_a_slash_reaches_no_pipeline(wire: Wire, target: str):
    assert status_of(wire, post(target, b'{"text": "x"}')) in (400, 404, 405)


@PROTOCOLS
@pytest.mark.parametrize("host", ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n"], ids=["none", "twice", "two"])
def test_a_request_without_a_host_or_with_two_is_refused(wire: Wire, host: str):
    assert status_of(wire, f"GET /healthz HTTP/1.1\r\n{host}\r\n".encode()) == 400
    assert status_of(wire, b"GET /healthz HTTP/1.0\r\n\r\n") == 200  # which is older than the header


@PROTOCOLS
@pytest.mark.parametrize(
    "target", ["http://elsewhere.example/healthz", "HTTP://a:1/healthz?x=1", "https://[::1]/healthz"]
)
def test_a_target_with_scheme_and_host_is_its_path(wire: Wire, target: str):
    assert status_of(wire, f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) == 200
    assert status_of(wire, b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n") == 200


@PROTOCOLS
def test_a_length_beside_a_transfer_coding_is_refused(wire: Wire):
    request = chunked("/echo/run", b'{"text": "x"}', "Content-Length: 13")

    assert status_of(wire, request) == 400


@PROTOCOLS
@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "identity", "chunked, chunked"])
def test_another_transfer_coding_is_refused(wire: Wire, coding: str):
    request = chunked("/echo/run", b'{"text": "x"}').replace(b"Encoding: chunked", f"Encoding: {coding}".encode())

    assert status_of(wire, request) in (400, 501)


@PROTOCOLS
@pytest.mark.parametrize("version", ["2.0", "1.2", "0.9", "3.0"])
def test_another_version_is_refused(wire: Wire, version: str):
    request = post("/echo/run", b'{"text": "x"}').replace(b"HTTP/1.1", f"HTTP/{version}".encode())

    assert status_of(wire, request) in (400, 505)


@PROTOCOLS
def test_a_clients_text_in_an_error_forges_no_line_and_moves_no_cursor(wire: Wire):
    text = b"x\\r\\n00:00:00.000 INFO    Deployed evil\\u001b[2J\\u2028\\u009b"
    status_of(wire, post("/fails/run", b'{"text": "%s"}' % text))
    wire.process.prints("fails/run failed: ValueError: x")
    log = wire.process.output()

    first = next(line for line in log.splitlines() if "fails/run failed" in line)
    assert "Deployed evil" in first
    assert not any(char in log for char in "\x1b\r\u2028\x9b")
