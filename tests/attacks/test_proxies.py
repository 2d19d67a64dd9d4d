"""API keys reach the own server and nobody else: no proxy of the environment, no address that it redirects to."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.cli.commands import hayhooks, pipeline
from tests.live_server import ECHO, LiveServer, replace

KEY = "sesame"


class Stranger:
    """Listens, notes what it is sent, and answers *answer*."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self.port = self._socket.getsockname()[1]
        self.heard: list[bytes] = []

    def run(self) -> None:
        """Until it is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heard.append(connection.recv(65536))
                connection.sendall(self._answer)

    def close(self) -> None:
        """Wake ``run``."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@contextmanager
def stranger(answer: bytes = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n") -> Iterator[Stranger]:
    """A stranger in a thread."""
    heard = Stranger(answer)
    thread = threading.Thread(target=heard.run, daemon=True)
    thread.start()
    try:
        yield heard
    finally:
        heard.close()
        thread.join(timeout=10)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_command_uses_a_proxy(server: LiveServer, port, tmp_path, monkeypatch, variable):
    replace(tmp_path / "mine/pipeline_wrapper.py", "ANSWER = ''\n" + ECHO)
    with stranger() as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        results = [
            hayhooks("status", cwd=tmp_path, PORT=port, API_KEYS=KEY),
            pipeline("deploy-files", "mine", "--no-check", cwd=tmp_path, port=port, API_KEYS=KEY),
            pipeline("list", cwd=tmp_path, port=port, API_KEYS=KEY),
            pipeline("run", "mine", "-p", "text=hi", cwd=tmp_path, port=port, API_KEYS=KEY),
            pipeline("undeploy", "mine", cwd=tmp_path, port=port, API_KEYS=KEY),
        ]

    assert [done.returncode for done in results] == [0] * 5, results
    assert proxy.heard == []


@pytest.mark.parametrize("command", [("status",), ("pipeline", "list"), ("pipeline", "run", "echo")])
def test_no_command_follows_a_redirect(root, tmp_path, command):
    with stranger() as elsewhere:
        location = f"http://127.0.0.1:{elsewhere.port}/".encode()
        redirect = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
        with stranger(redirect) as first:
            done = hayhooks(*command, cwd=tmp_path, PORT=str(first.port), API_KEYS=KEY)

    assert done.returncode == (0 if "list" in command else 1)
    assert done.stderr.count("\n") == 1
    assert len(first.heard) == 1
    assert elsewhere.heard == []


def test_credentials_of_a_netrc_file_replace_no_key(server: LiveServer, port, tmp_path, monkeypatch):
    replace(tmp_path / "mine/pipeline_wrapper.py", HEADERS)
    pipeline("deploy-files", "mine", "--no-check", cwd=tmp_path, port=port)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    done = pipeline("run", "mine", cwd=tmp_path, port=port, API_KEYS=KEY)

    assert done.stdout == f"Bearer {KEY}\n"


HEADERS = """
from starlette.datastructures import Headers
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, headers: Headers):
        return headers["authorization"]
"""
