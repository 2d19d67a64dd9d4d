"""Setups that are slow, burn the processor, or never end."""

import os
from pathlib import Path

from tests.faults.traffic import Traffic, files, write
from tests.live_server import ECHO, LiveServer, replace, serving

HANGING = """
import threading, time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        Path(BEGAN).touch()
        while not Path(GATE).exists():
            BODY

    def run_api(self):
        return ANSWER
"""
SLEEPING = HANGING.replace("BODY", "time.sleep(0.01)")
BURNING = HANGING.replace("BODY", "sum(range(1000))")


def test_twelve_that_hang_stop_neither_the_others_nor_their_own_repair(traffic: Traffic, tmp_path: Path):
    server, gate = traffic.server, tmp_path / "gate"
    names = [f"hanging{number}" for number in range(12)]
    for name in names:
        server.write(name, SLEEPING, began=str(tmp_path / name), gate=str(gate), answer=1)
    server.eventually(lambda: all((tmp_path / name).exists() for name in names))
    states = {entry["name"]: entry for entry in server.status()["deployments"]}
    assert {states[name]["state"] for name in names} == {"loading"}
    assert all(states[name]["loading_since"] for name in names)

    for version in (11, 12):
        write(server.root / "app", version)
        traffic.serves(version)
    for name in names[:3]:
        server.serve(name, ECHO, answer="repaired ")
        assert server.run(name, text="x") == "repaired x"
    gate.touch()
    server.eventually(lambda: server.run(names[-1]) == 1)


def test_a_name_that_is_not_utf8_is_listed_while_its_load_waits(own_server: LiveServer, tmp_path: Path):
    names = [f"hanging{number}" for number in range(4)]  # as many as are loaded at a time
    for name in names:
        own_server.write(name, SLEEPING, began=str(tmp_path / name), gate=str(tmp_path / "gate"), answer=1)
    own_server.eventually(lambda: all((tmp_path / name).exists() for name in names))

    own_server.write(os.fsdecode(b"odd\xff"))

    own_server.eventually(lambda: "odd\\udcff" in [load["name"] for load in own_server.status()["loading"]])
    (tmp_path / "gate").touch()


def test_one_that_burns_the_processor_delays_but_stops_nobody(traffic: Traffic, tmp_path: Path):
    server, gate = traffic.server, tmp_path / "gate"
    server.write("burning", BURNING, began=str(tmp_path / "began"), gate=str(gate), answer=1)
    server.eventually((tmp_path / "began").exists)

    for version in (11, 12):
        write(server.root / "app", version)
        traffic.serves(version)

    gate.touch()
    server.eventually(lambda: server.run("burning") == 1)


def test_an_edit_while_setup_runs_is_not_lost(traffic: Traffic, tmp_path: Path):
    server, app = traffic.server, traffic.server.root / "app"
    gate, began = tmp_path / "gate", tmp_path / "began"
    slow = SLEEPING.replace("return ANSWER", "return [11, 11, 11]")
    replace(app / "pipeline_wrapper.py", f"GATE, BEGAN = {str(gate)!r}, {str(began)!r}\n{slow}")
    server.eventually(began.exists)
    write(app, 12)
    traffic.serves(12)
    gate.touch()

    write(app, 13)
    traffic.serves(13)


def test_one_that_hangs_at_the_start_does_not_keep_the_others_from_serving(root: Path, tmp_path: Path):
    gate = tmp_path / "gate"
    head = f"GATE, BEGAN, ANSWER = {str(gate)!r}, {str(tmp_path / 'began')!r}, 1\n"
    replace(root / "hanging/pipeline_wrapper.py", head + SLEEPING)
    replace(root / "echo/pipeline_wrapper.py", "ANSWER = 'echo '\n" + ECHO)
    with serving(root) as server:
        assert server.run("echo", text="x") == "echo x"
        assert server.state("hanging")["state"] == "loading"
        assert server.client.get("/status/hanging").status_code == 503
        _is_not_ready_yet(server)
        gate.touch()
        server.eventually(lambda: server.client.get("/readyz").status_code == 200)


def _is_not_ready_yet(server: LiveServer) -> None:
    response = server.client.get("/readyz")
    assert (response.status_code, "first time" in response.json()["detail"]) == (503, True)


def test_after_a_while_the_start_no_longer_waits_for_one_that_hangs(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("hayhooks.kernel.reconcile._READY_AFTER_S", 1.0)
    gate = tmp_path / "gate"
    head = f"GATE, BEGAN, ANSWER = {str(gate)!r}, {str(tmp_path / 'began')!r}, 1\n"
    replace(root / "hanging/pipeline_wrapper.py", head + SLEEPING)
    with serving(root, poll_interval_ms=50) as server:
        _is_not_ready_yet(server)
        server.eventually(lambda: server.client.get("/readyz").status_code == 200)
        assert server.state("hanging")["state"] == "loading"
        assert server.client.post("/hanging/run", json={}).status_code == 503
        gate.touch()
        server.eventually(lambda: server.run("hanging") == 1)


def test_what_a_setup_read_from_a_folder_that_had_changed_is_not_served(traffic: Traffic, tmp_path: Path):
    """The old wrapper is still in setup when the new version comes, and reads the new prompt."""
    app = traffic.server.root / "app"
    for version in (11, 13, 15, 17):
        gate, began = tmp_path / f"gate{version}", tmp_path / f"began{version}"
        wait = (
            f"Path({str(began)!r}).touch()\n        while not Path({str(gate)!r}).exists(): __import__('time').sleep(0)"
        )
        source = files(version)["pipeline_wrapper.py"].replace(
            "        self.prompt", f"        {wait}\n        self.prompt"
        )
        for path, content in {**files(version), "pipeline_wrapper.py": source}.items():
            replace(app / path, content)
        traffic.server.eventually(began.exists)
        write(app, version + 1)
        gate.touch()
        traffic.serves(version + 1)
