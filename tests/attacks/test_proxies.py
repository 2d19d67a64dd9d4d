"""API keys reach the own server and nobody else: no proxy of the environment, no address that it redirects to."""

import pytest

from tests.cli.commands import hayhooks, pipeline
from tests.live_server import ECHO, LiveServer, replace
from tests.network import stranger

KEY = "sesame"


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
