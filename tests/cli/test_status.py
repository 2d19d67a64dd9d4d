import json
import time

from tests.cli.commands import hayhooks
from tests.live_server import ECHO, replace
from tests.network import free_port


def test_the_table_shows_each_deployment_on_a_line_of_its_own(server, port, tmp_path):
    server.serve("first", answer="1")
    server.serve("second", answer="2")

    result = hayhooks("status", "--port", port, cwd=tmp_path)

    header, first, second = result.stdout.splitlines()
    assert header.split() == ["name", "state", "revision", "age", "endpoints", "error"]
    assert first.split()[:2] == ["first", "serving"]
    assert first.split()[2] == server.state("first")["revision"]
    assert "/first/run /first/chat" in first
    assert second.split()[:2] == ["second", "serving"]
    assert result.returncode == 0


def test_stale_or_failed_is_exit_status_2(server, port, tmp_path):
    """A stale or failed one is exit status 2 and shown with the first line of its error."""
    long_name = "a_module_with_a_name_that_is_much_longer_than_any_terminal_would_show_in_its_last_column"
    server.serve("echo", answer="1")
    server.write("echo", f"import {long_name}\n" + ECHO, answer="2")
    server.eventually(lambda: server.state("echo")["state"] == "stale")

    result = hayhooks("status", "--port", port, cwd=tmp_path)

    assert result.returncode == 2
    assert result.stdout.splitlines()[1].endswith(f"ModuleNotFoundError: No module named '{long_name}'")


def test_other_yaml_files_are_no_failures(server, port, tmp_path):
    replace(server.root / "docker-compose.yml", "services: {}\n")
    replace(server.root / "config.yaml", "debug: true\n")
    server.serve("echo", answer="1")

    result = hayhooks("status", "--port", port, cwd=tmp_path)

    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["name", "echo"]


def test_json_is_what_the_server_says(server, port, tmp_path):
    server.serve("echo", answer="1")
    server.eventually(lambda: server.status()["watching"]["directories"] == 2, "the new folder to be watched")

    result = hayhooks("status", "--json", "--port", port, cwd=tmp_path)

    assert json.loads(result.stdout) == server.status()
    assert result.returncode == 0


def test_an_empty_server_says_so(server, port, tmp_path):
    result = hayhooks("status", cwd=tmp_path, PORT=port)

    assert result.stdout.startswith("Nothing is deployed. `hayhooks pipeline new NAME` ")
    assert result.returncode == 0


def test_since_when_something_is_loading(server, port, tmp_path):
    gate = tmp_path / "gate"
    waiting = "import os, time\nwhile not os.path.exists(GATE): time.sleep(0.01)\n" + ECHO
    server.serve("old", answer="1")
    server.write("old", waiting, gate=str(gate))
    server.write("new", waiting, gate=str(gate))
    try:
        server.eventually(lambda: len(server.status()["loading"]) == 2)
        loading_since = server.eventually(lambda: server.state("new")["loading_since"])
        since = time.strftime("%H:%M:%S", time.localtime(loading_since))
        for arguments in (["status"], ["pipeline", "list", "--pipelines-dir", server.root]):
            result = hayhooks(*arguments, "--port", port, cwd=tmp_path)
            assert f"loading since {since}" in result.stdout
            assert "  serving, loading since " in result.stdout
            assert "pipeline_wrapper.py:3: while not" in result.stdout + result.stderr
    finally:
        gate.touch()


def test_no_answer_is_exit_status_1_and_says_where_it_asked(tmp_path):
    port = free_port()

    result = hayhooks("status", "--port", str(port), cwd=tmp_path)

    assert result.returncode == 1
    assert f"No answer from http://127.0.0.1:{port}/status" in result.stderr
    assert result.stderr.endswith("Is `hayhooks run` or `hayhooks dev` running there? (--port, HAYHOOKS_PORT)\n")


def test_a_server_that_is_not_hayhooks_is_told(tmp_path, server, port):
    @server.app.get("/status")
    def other():
        return ["something else"]

    result = hayhooks("status", "--port", port, cwd=tmp_path)

    assert result.returncode == 1
    assert "not a hayhooks server" in result.stderr
