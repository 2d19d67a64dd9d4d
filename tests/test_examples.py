"""The examples answer as their READMEs say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import hayhooks
from tests.cli.processes import started
from tests.integrations.a2a_client import send, text_of
from tests.live_server import LiveServer, serving

ROOT = Path(hayhooks.__file__).parent.parent
EXAMPLES = ROOT / "examples"
NAMES = sorted(
    [path.parent.name for path in EXAMPLES.glob("*/pipeline_wrapper.py")] + [p.stem for p in EXAMPLES.glob("*.yml")]
)


@pytest.fixture(scope="module")
def examples():
    with serving(EXAMPLES) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALCULATOR_URL", f"{server.url}/agent")  # else at the port of the settings
        server.eventually(lambda: server.status()["ready"], "the examples to be loaded", 60)
        yield server


def test_all_examples_are_served(examples: LiveServer):
    status = examples.status()

    assert status["pipelines"] == NAMES
    assert {entry["state"] for entry in status["deployments"]} == {"serving"}


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_readme_are_answered_as_it_says(examples: LiveServer, name: str):
    readme = (EXAMPLES / name / "README.md").read_text()
    commands = re.findall(r"^```sh\n(curl .*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert commands
    for command in commands:
        command = command.replace("http://127.0.0.1:1416", examples.url).replace(
            "curl ", "curl -sS --fail-with-body ", 1
        )
        answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        if "/run" in command:
            assert f"```json\n{answer}\n```" in readme
        elif '"stream": true' in command:
            assert answer.endswith("data: [DONE]\n\n")
            assert "error" not in answer
        else:
            assert '"object":"chat.completion"' in answer


def test_the_agents_own_tool_calls_are_not_the_clients(examples: LiveServer):
    body = {"model": "agent", "messages": [{"role": "user", "content": "What is 17 times 23?"}], "stream": True}
    answer = examples.client.post("/v1/chat/completions", json=body).text

    assert "391" in answer
    assert "tool_calls" not in answer
    assert answer.count('"finish_reason":"stop"') == 1


def test_an_agent_asks_another_deployment_by_mcp(examples: LiveServer, tmp_path: Path):
    pytest.importorskip("haystack_integrations.tools.mcp", reason="mcp-haystack is not installed")
    readme = (EXAMPLES / "_mcp/README.md").read_text()
    command = re.search(r"^```sh\n(curl .*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert command
    directory, variables = str(EXAMPLES / "_mcp"), {"TOOLS_URL": f"{examples.url}/mcp"}
    with started(tmp_path, "run", "--pipelines-dir", directory, variables=variables) as server:
        curl = command[1].replace("http://127.0.0.1:1417", server.url)
        answer = subprocess.run(["sh", "-c", curl], capture_output=True, text=True, check=True).stdout
    assert f"```json\n{answer}\n```" in readme


def test_an_agent_asks_another_one(examples: LiveServer):
    """By A2A, as a client asks it."""
    task = send(f"{examples.url}/desk", "What is 17 times 23?")

    assert text_of(task) == "My colleague says: That makes 391."
    asked = {path for path, _, _ in examples.app.metrics.of("agent").answers}  # type: ignore[union-attr]  # they are on
    assert "/{name}/a2a" in asked


def test_the_demo_checks_itself():
    demo = subprocess.run(
        [sys.executable, ROOT / "scripts/demo.py", "--check"], capture_output=True, text=True, timeout=120, check=False
    )

    assert demo.returncode == 0, demo.stdout + demo.stderr
    for name in NAMES:
        assert f"# {name}\n" in demo.stdout
    assert demo.stdout.endswith("All answered.\n")


def test_the_demo_does_not_take_another_server_for_its_own(examples: LiveServer):
    port = str(examples.port)
    demo = subprocess.run(
        [sys.executable, ROOT / "scripts/demo.py", "--port", port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert demo.returncode == 1
    assert (demo.stdout, demo.stderr.startswith(f"Port {port} is taken")) == ("", True)


def test_the_demo_finds_a_taken_port_before_it_installs(examples: LiveServer, tmp_path: Path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    command = [str(tmp_path / "scripts/demo"), "--port", str(examples.port)]
    environment = {**os.environ, "PYTHON": sys.executable}

    demo = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert (demo.returncode, demo.stdout) == (1, "")
    assert demo.stderr.startswith(f"Port {examples.port} is taken")
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]


def test_open_webui_side_requests_cost_nothing(examples: LiveServer):
    """What open webui asks besides costs nothing and answers show status and source."""

    def ask(text: str, stream: bool) -> httpx.Response:
        body = {"model": "open_webui", "stream": stream, "messages": [{"role": "user", "content": text}]}
        return examples.client.post("/v1/chat/completions", json=body).raise_for_status()

    task = ask("### Task:\nGenerate a concise title.", stream=False).json()
    assert task["choices"][0]["message"]["content"] == "{}"
    events = ask("When was the oldest clock made?", stream=True).text.split("\n\n")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [chunk["event"]["type"] for chunk in chunks if "event" in chunk] == ["status", "status", "source"]
    assert all(chunk["choices"] == [] for chunk in chunks if "event" in chunk)
    assert "1512" in "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


def test_a_job_and_a_question_outlive_their_requests(tmp_path: Path):
    readme = (EXAMPLES / "durable/README.md").read_text()
    directory = re.search(r"--pipelines-dir (\S+)\n```\n\n## A job", readme)
    assert directory is not None
    with serving(ROOT / directory[1], state_dir=str(tmp_path), durable_poll_ms=50) as server:
        server.eventually(lambda: server.status()["ready"], "both to be loaded", 60)
        job, question = (
            json.loads(sh(command.replace("http://127.0.0.1:1416", server.url)))
            for command in re.findall(r"^```sh\n(curl .*?)\n```", readme, re.MULTILINE | re.DOTALL)
        )
        path = question["links"]["self"]
        server.eventually(lambda: server.client.get(path).json()["status"] == "waiting", "the question", 60)
        asked = server.client.get(path).json()["waiting"]["message"]
        server.client.post(f"{path}/resume", json={"approved": True})
        server.eventually(lambda: server.client.get(path).json()["status"] == "completed", "the reply", 60)
        reply = server.client.get(path).json()

    assert f'"result":{json.dumps(job["result"], separators=(",", ":"))}' in readme
    assert [event["message"] for event in job["progress"]] == ["1 of 2: otter.md", "2 of 2: owl.md"]
    assert (asked, reply["steps"]) == ("Pay back 19.90?", ["pay"])
    assert reply["result"]["text"] in readme


def sh(command: str) -> str:
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
