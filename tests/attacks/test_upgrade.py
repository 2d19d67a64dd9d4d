"""An upgrade that the server does not speak is ignored, and its body is its body (RFC 9110, 7.8)."""

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.attacks.wire import PROTOCOLS, Responses, Wire, chunked, exchange, get, post, wired
from tests.deployment.nginx import needs_nginx, nginx
from tests.live_server import eventually

SMUGGLED = get("/status")
TOKENS = ["h2c", "TLS/1.3", "foo", "websocket", "h2c, websocket", "WebSocket", "foo/2, bar"]


@pytest.fixture(scope="module")
def wire(protocol: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    with wired(tmp_path_factory.mktemp("upgrade"), protocol) as wire:
        yield wire


def upgrading(token: str) -> tuple[str, str, str]:
    return "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {token}", "HTTP2-Settings: AAMAAABkAAQAAP__"


@PROTOCOLS
@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("request_of", [post, chunked])
def test_the_body_of_an_upgrade_is_read(wire: Wire, token: str, request_of: Callable[..., bytes]):
    """It is read however it is sent: at once, after the head, byte by byte, and with another request behind it."""
    request = request_of("/echo/run", b'{"text": "hi"}', *upgrading(token))
    end = request.index(b"\r\n\r\n") + 4
    pieces = {
        "at once": [request],
        "the body alone": [request[:end], request[end:]],
        "in the middle": [request[: end - 10], request[end - 10 : end + 3], request[end + 3 :]],
        "byte by byte": [request[index : index + 1] for index in range(len(request))],
    }
    for how, sent in pieces.items():
        answers = exchange(wire.port, *sent, post("/echo/run", b'{"text": "next"}'), count=2, pause_s=0.0005)
        assert answers == [(200, b'{"result":"echo hi"}'), (200, b'{"result":"echo next"}')], how


@PROTOCOLS
@pytest.mark.parametrize("token", TOKENS)
def test_a_body_is_no_request(wire: Wire, token: str):
    """What stands in the body of an upgrade is never run, nor answered."""
    for request_of, with_pause in itertools.product((post, chunked), (False, True)):
        request = request_of("/echo/run", SMUGGLED, *upgrading(token))
        end = request.index(b"\r\n\r\n") + 4
        pieces = [request[:end], request[end:]] if with_pause else [request]
        with wire.connected() as connection:
            for piece in (*pieces, get("/healthz", "Connection: close")):
                connection.sendall(piece)
            responses = Responses(connection)
            assert [responses.next()[0] for _ in range(2)] == [422, 200]
            assert responses.ended()


@PROTOCOLS
def test_upgrades_behind_other_requests_and_on_old_versions_are_ignored(wire: Wire):
    upgrade = post("/echo/run", b'{"text": "hi"}', *upgrading("h2c"))
    assert [status for status, _ in exchange(wire.port, get("/healthz") + upgrade * 3, count=4)] == [200] * 4

    old = get("/healthz", "Connection: Upgrade", "Upgrade: websocket").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert exchange(wire.port, old)[0][0] == 200


@pytest.mark.parametrize("protocol", ["fast"], scope="module")
def test_an_upgrade_that_is_refused_changes_nothing_of_the_request_before_it(wire: Wire):
    """A request without a Host is refused when the response before it is complete."""
    refused = post("/echo/run", SMUGGLED, *upgrading("h2c")).replace(b"Host: x\r\n", b"")
    with wire.connected() as connection:
        connection.sendall(post("/echo/run", b'{"text": "hi"}') + refused)
        responses = Responses(connection)
        assert responses.next() == (200, b'{"result":"echo hi"}')
        assert responses.next()[0] == 400
        assert responses.ended()


@PROTOCOLS
@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "GET", "HEAD"])
def test_any_method_with_an_upgrade_and_a_body_keeps_its_connection_in_step(wire: Wire, method: str):
    request = post("/echo/run", SMUGGLED, *upgrading("websocket")).replace(b"POST", method.encode(), 1)
    with wire.connected() as connection:
        connection.sendall(request + get("/healthz", "Connection: close"))
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.count(b"HTTP/1.1 ") == 2
    assert received.endswith(b'{"status":"alive"}') or b"200 OK" in received.rpartition(b"HTTP/1.1 ")[2]


@PROTOCOLS
def test_connect_opens_no_tunnel(wire: Wire):
    """CONNECT is refused, and nothing behind it is read as a request."""
    request = b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    with wire.connected() as connection:
        connection.sendall(request + SMUGGLED + get("/healthz", "Connection: close"))
        responses = Responses(connection)
        first, second = responses.next()[0], responses.next()[0]
    assert 400 <= first <= 501
    assert second in (0, 200)


@PROTOCOLS
@pytest.mark.skipif(not shutil.which("curl"), reason="no curl")
def test_curl_with_http2_is_served(wire: Wire):
    command = ["curl", "-sS", "--http2", "-H", "Content-Type: application/json", "-d", '{"text": "hi"}']
    for extra in ([], ["-H", "Transfer-Encoding: chunked"]):
        result = subprocess.run(
            [*command, *extra, f"http://127.0.0.1:{wire.port}/echo/run"], capture_output=True, text=True, timeout=30
        )
        assert result.stdout == '{"result":"echo hi"}', result


JAVA = """
import java.net.URI;
import java.net.http.*;

class Ask {
    public static void main(String[] urls) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create(urls[0])).header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString("{\\"text\\": \\"hi\\"}")).build();
        for (int i = 0; i < 3; i++)
            System.out.print(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
    }
}
"""


@PROTOCOLS
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("java"), reason="no Java")
def test_javas_default_client_is_served(wire: Wire, tmp_path: Path):
    """It asks for HTTP/2 with every first request."""
    (tmp_path / "Ask.java").write_text(JAVA)
    command = ["java", "-Xshare:auto", "Ask.java", f"http://127.0.0.1:{wire.port}/echo/run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if "module not found" in result.stderr or "jdk.compiler" in result.stderr:
        pytest.skip("no compiler of Java")
    assert result.stdout == '{"result":"echo hi"}' * 3, result.stderr


FORWARDS = {
    'proxy_set_header Connection "";': 'proxy_set_header Connection "upgrade"; proxy_set_header Upgrade $http_upgrade;',
}
DENIES = {"    location / {": "    location = /status { return 403; }\n    location / {"}


@needs_nginx
@PROTOCOLS
@pytest.mark.parametrize("changes", [DENIES, {**DENIES, **FORWARDS}], ids=["as it is", "forwards Upgrade"])
def test_nothing_gets_past_a_proxy_in_the_body_of_an_upgrade(wire: Wire, tmp_path: Path, changes: dict[str, str]):
    """The guide's nginx.conf with a path that it denies; clients upgrade, and hide that path in their bodies."""
    with nginx(tmp_path, wire.port, changes=changes) as proxy:
        eventually(lambda: httpx.get(proxy.url + "/healthz").status_code == 200)
        before = wire.logged().count("GET /status")
        assert httpx.get(proxy.url + "/status").status_code == 403
        for token, request_of in itertools.product(TOKENS, (post, chunked)):
            hidden = request_of("/echo/run", SMUGGLED, *upgrading(token))
            plain = request_of("/echo/run", b'{"text": "hi"}', *upgrading(token))
            answers = exchange(proxy.port, hidden, plain, count=2, pause_s=0.005)
            assert answers[0][0] == 422
            assert answers[1] == (200, b'{"result":"echo hi"}')
        assert httpx.get(proxy.url + "/healthz").status_code == 200
        assert wire.logged().count("GET /status") == before
