"""A shared module that is broken and repaired again and again, under load."""

import threading
import time
from pathlib import Path

import httpx

from tests.live_server import replace, serving

WRAPPER = """
import often_edited
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self) -> int:
        return often_edited.VERSION
"""
NAMES = [f"app{number}" for number in range(4)]


def test_a_shared_module_that_is_broken_and_repaired_fails_no_request(root: Path, tmp_path: Path):
    module = tmp_path / "shared/often_edited.py"
    replace(module, "VERSION = 0\n")
    wrong: list[str] = []
    stopped = threading.Event()
    with serving(root, additional_python_path=str(module.parent)) as server:

        def ask(name: str) -> None:
            last = 0
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stopped.wait(0.002):
                    response = client.post(f"/{name}/run", json={})
                    if response.status_code != 200 or response.json()["result"] < last:
                        wrong.append(f"{response.text} after {last}")
                    else:
                        last = response.json()["result"]

        for name in NAMES:
            server.serve(name, WRAPPER)
        askers = [threading.Thread(target=ask, args=(name,)) for name in NAMES]
        for asker in askers:
            asker.start()
        for version in range(1, 31):
            replace(module, "VERSION = \n")
            time.sleep(version % 7 * 0.01)  # the pace of who edits it
            replace(module, f"VERSION = {version}\n")
            for name in NAMES:
                server.eventually(lambda name=name, version=version: server.run(name) == version)  # type: ignore[misc]
        stopped.set()
        for asker in askers:
            asker.join(timeout=30)

    assert wrong == []
