"""Heads, trailers and pipelined requests without limit: memory stays, and others are served."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.attacks.wire import MB, PROTOCOLS, Responses, Wire, chunked, flood, get, post, wired
from tests.live_server import eventually

LINES = b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000
CHUNKED = chunked("/echo/run", b"").removesuffix(b"0\r\n\r\n")


@pytest.fixture(scope="module")
def wire(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with wired(tmp_path_factory.mktemp("heads"), protocol) as wire:
        for _ in range(20):  # what is imported or allocated once
            wire.health_s()
        yield wire


ENDLESS = {
    "headers": (get("/healthz")[:-2], LINES),
    "one header": (get("/healthz")[:-2] + b"X: ", b"a" * 40_000),
    "tiny headers": (get("/healthz")[:-2], b"a:\r\n" * 10_000),
    "a header's name": (get("/healthz")[:-2], b"a" * 40_000),
    "the path": (b"GET /", b"a" * 40_000),
    "empty lines": (b"", b"\r\n" * 20_000),
    "headers while another runs": (post("/waits/run") + get("/healthz")[:-2], LINES),
    "headers after many that are not read": (get("/status") * 52 + get("/healthz")[:-2], LINES),
    "headers with an upgrade": (get("/healthz", "Connection: upgrade", "Upgrade: h2c")[:-2], LINES),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", LINES),
    "one trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"a" * 40_000),
    "trailers after the response": (CHUNKED.replace(b"/echo/run", b"/none") + b"0\r\n", LINES),
    "one trailer after the response": (CHUNKED.replace(b"/echo/run", b"/none") + b"0\r\nX: ", b"a" * 1400),
    "a chunk's extension": (CHUNKED + b"2;", b"a" * 40_000),
    "requests while one runs": (post("/waits/run"), get("/healthz") * 1000),
    "requests that are not read": (b"", get("/status") * 1000),
    "bodies while one runs": (post("/waits/run") + post("/echo/run")[:-2], b"x" * 40_000),
}


@PROTOCOLS
@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_takes_no_memory(wire: Wire, what: str):
    begin, piece = ENDLESS[what]
    before = wire.resident_mb()
    with wire.connected() as connection:
        connection.sendall(begin)
        sent = flood(connection, piece)

        assert sent < 30 * MB  # what lies in buffers on the way
        assert wire.resident_mb() - before < 25
        assert wire.health_s() < 5


@PROTOCOLS
def test_many_connections_with_small_requests_behind_a_slow_one_take_little_memory(wire: Wire):
    requests = post("/waits/run") + get("/healthz").replace(b"Host: x\r\n", b"") * 5000
    with ExitStack() as stack:
        connections = [stack.enter_context(wire.connected()) for _ in range(50)]
        before = wire.resident_mb()
        for connection in connections:
            connection.settimeout(0.01)
            with suppress(TimeoutError):
                connection.sendall(requests)
        wire.health_s()
        assert wire.resident_mb() - before < 60


@PROTOCOLS
@pytest.mark.parametrize("count", [3, 2_000])
def test_pipelined_requests_are_all_answered_in_their_order(wire: Wire, count: int):
    with wire.connected() as connection:
        for first in range(0, count, 100):
            connection.sendall(
                b"".join(post("/echo/run", b'{"text": "%d"}' % number) for number in range(first, first + 100)[:count])
            )
        responses = Responses(connection)
        for number in range(count):
            assert responses.next() == (200, b'{"result":"echo %d"}' % number)


@PROTOCOLS
def test_a_malformed_request_behind_a_slow_one_is_refused_after_its_answer(wire: Wire):
    with wire.connected() as connection:
        connection.sendall(post("/waits/run", b'{"number": 7}') + b"GARBAGE\r\n\r\n")
        eventually(lambda: wire.told("begun", 7))
        wire.gate.touch()
        responses = Responses(connection)
        assert responses.next() == (200, b'{"result":7}')
        assert responses.next()[0] == 400
        assert responses.ended()
    wire.gate.unlink()


@PROTOCOLS
def test_a_body_that_is_malformed_ends_its_request_alone(wire: Wire):
    with wire.connected() as connection:
        connection.sendall(CHUNKED + b"2\r\n{}\r\nGARBAGE\r\n\r\n")
        assert Responses(connection).next()[0] == 400
    assert wire.health_s() < 5


@PROTOCOLS
def test_heads_within_the_limits_are_taken_in_any_state_of_the_connection(wire: Wire):
    headers = [f"X-{number}: {'a' * 220}" for number in range(250)]
    request = post("/echo/run", b'{"text": "%s"}' % (b"x" * 100_000), *headers)
    with wire.connected() as connection:
        connection.sendall(request * 3)
        responses = Responses(connection)
        for _ in range(3):
            assert responses.next()[0] == 200


@PROTOCOLS
@pytest.mark.parametrize("count", [256, 257])
def test_the_number_of_headers_is_limited(wire: Wire, count: int):
    """Three of them are Host, Content-Type and Content-Length."""
    request = post("/echo/run", b'{"text": "x"}', *(f"X-{number}: a" for number in range(count - 3)))
    with wire.connected() as connection:
        connection.sendall(request)
        status, body = Responses(connection).next()

    assert status == (200 if count == 256 else 431)
    assert count == 256 or b"Too many request headers: 257; at most 256 are allowed" in body


@pytest.mark.parametrize("protocol", ["fast"], scope="module")
@pytest.mark.parametrize("size", [65_536, 65_537])
def test_the_limit_of_a_head_is_exact(wire: Wire, size: int):
    fixed = len("/echo/run") + sum(len(line) + 2 for line in ("Host: x", "X: "))
    request = get("/echo/run", "X: " + "a" * (size - fixed))
    with wire.connected() as connection:
        connection.sendall(request)
        assert Responses(connection).next()[0] == (405 if size == 65_536 else 431)
