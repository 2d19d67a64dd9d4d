"""What was replaced goes, and only when nobody uses it any more; what is left of it is in faults/test_leaks.py."""

import colorsys
import sys
from pathlib import Path
from types import FrameType

from tests.live_server import LiveServer, eventually

TEARDOWN = """
from pathlib import Path
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self, gate: str):
        yield "began"
        while not Path(gate).exists():
            time.sleep(0.005)
        yield " ended"

    def teardown(self):
        Path(TORN).touch()
        raise SystemExit("a teardown that fails")
"""


def test_a_deployment_is_torn_down_after_its_last_byte(server: LiveServer, tmp_path: Path):
    gate, torn = tmp_path / "gate", tmp_path / "torn"
    server.serve("slow", TEARDOWN, torn=str(torn))
    with server.client.stream("POST", "/slow/run", json={"gate": str(gate)}) as response:
        pieces = response.iter_text()
        assert next(pieces) == "began"
        server.remove("slow")
        server.eventually(lambda: server.client.get("/status/slow").status_code == 404)
        assert not torn.exists()
        gate.touch()
        assert "".join(pieces) == " ended"

    eventually(torn.exists)
    eventually(lambda: server.app.reconciler and server.app.reconciler.retirement.pending == 0)
    assert not any(name.startswith("_hayhooks_slow_") for name in sys.modules)


KEPT = """
import colorsys, weakref
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.cycle = self
        weakref.finalize(self, Path(GONE).touch)
        colorsys.kept = getattr(colorsys, "kept", None) or self

    def run_api(self): ...
"""


def test_what_somebody_kept_is_freed_when_they_let_go_of_it(server: LiveServer, tmp_path: Path):
    gone = tmp_path / "gone"
    server.serve("it", KEPT, gone=str(gone))
    try:
        server.serve("it")
        server.eventually(lambda: "still referred to by" in server.status()["retired"][0]["why"])
        assert not gone.exists()
    finally:
        del colorsys.kept  # type: ignore[attr-defined]  # of the wrapper's making

    eventually(gone.exists)
    eventually(lambda: not server.status()["retired"])


def test_the_waiting_deployer_refers_to_no_retired_deployment(server: LiveServer, tmp_path: Path):
    gate = tmp_path / "gate"
    server.serve("slow", TEARDOWN, torn=str(tmp_path / "torn"))
    reconciler = server.app.reconciler
    assert reconciler

    def waiting() -> list[FrameType]:
        frame = sys._current_frames()[reconciler._thread.ident or 0]
        frames = [frame]
        while frame := frame.f_back:  # type: ignore[assignment]
            frames.append(frame)
        return frames if any(frame.f_code.co_name == "_receive" for frame in frames) else []

    with server.client.stream("POST", "/slow/run", json={"gate": str(gate)}) as response:
        pieces = response.iter_text()
        assert next(pieces) == "began"
        server.remove("slow")
        eventually(lambda: len(reconciler.retirement.draining()) == 1)
        server.serve("other")  # the deployer has looked at what drains before it waits again
        eventually(waiting)
        (deployment,) = reconciler.retirement.draining()
        for frame in waiting():
            for name, value in frame.f_locals.items():
                assert value is not deployment, f"{frame.f_code.co_name}: {name}"
                assert not (isinstance(value, list) and deployment in value), f"{frame.f_code.co_name}: {name}"
        del deployment
        gate.touch()
        assert "".join(pieces) == " ended"
