"""What runs when its deployment is replaced or removed, or the server stops, ends on its own revision."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.cli.processes import started
from tests.faults.traffic import Traffic
from tests.live_server import ECHO, LiveServer, eventually, replace

GATED = """
import asyncio, time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, kind: str, began: str) -> str:
        return self.words(began) if kind == "stream" else "".join(self.words(began))

    def words(self, began):
        yield "old "
        Path(began).touch()
        while not Path(GATE).exists():
            time.sleep(0.005)
        yield "old"

    async def run_chat_completion_async(self, model, messages, body):
        yield "old "
        Path(messages[0]["content"]).touch()
        while not Path(GATE).exists():
            await asyncio.sleep(0.005)
        yield "old"
"""


def ask(url: str, tmp_path: Path, kind: str) -> str:
    """The text of an answer that is under way until the gate opens."""
    began = str(tmp_path / f"began-{kind}")
    if kind == "chat":
        body = {"model": "gated", "stream": True, "messages": [{"role": "user", "content": began}]}
        text = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).text
        assert text.endswith("data: [DONE]\n\n")
        return "old old" if text.count('"content":"old') == 2 else text
    response = httpx.post(f"{url}/gated/run", json={"kind": kind, "began": began}, timeout=60)
    return str(response.json()["result"] if kind == "whole" else response.text)


KINDS = ("whole", "stream", "chat")


def test_overwrite_and_undeploy_let_what_runs_end_on_its_own_revision(traffic: Traffic, tmp_path: Path):
    server, gate = traffic.server, tmp_path / "gate"
    server.serve("gated", GATED, gate=str(gate))
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, server.url, tmp_path, kind) for kind in KINDS]
        eventually(lambda: all((tmp_path / f"began-{kind}").exists() for kind in KINDS))
        server.serve("gated", ECHO, answer="new ")
        server.remove("gated")
        eventually(lambda: server.state("gated") is None)
        whys = [entry["why"] for entry in server.status()["retired"] if entry["name"] == "gated"]
        assert any("3 requests" in why for why in whys), whys
        gate.touch()
        assert [answer.result(timeout=60) for answer in answers] == ["old old"] * 3
    eventually(lambda: not server.status()["retired"])


def test_sigterm_lets_what_runs_end_and_takes_nothing_new(tmp_path: Path):
    gate = tmp_path / "gate"
    replace(tmp_path / "pipelines/gated/pipeline_wrapper.py", f"GATE = {str(gate)!r}\n{GATED}")
    with started(tmp_path, "run") as server, ThreadPoolExecutor() as pool:
        answers = [pool.submit(ask, server.url, tmp_path, kind) for kind in KINDS]
        eventually(lambda: all((tmp_path / f"began-{kind}").exists() for kind in KINDS))
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        eventually(lambda: _is_closed(server.url))
        gate.touch()
        assert [answer.result(timeout=60) for answer in answers] == ["old old"] * 3
        stopped.join(timeout=40)
        assert server.process.returncode == 0


def _is_closed(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=60).status_code == 503
    except httpx.HTTPError:
        return True


def test_status_and_models_never_blink_while_others_come_and_go(traffic: Traffic):
    server: LiveServer = traffic.server
    for number in range(20):
        server.serve("guest", ECHO, answer=number)
        if number % 4 == 3:
            server.remove("guest")
            eventually(lambda: server.state("guest") is None)
