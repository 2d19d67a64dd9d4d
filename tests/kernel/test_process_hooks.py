"""An application that embeds us gets its process back as it was."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.live_server import replace

# In a process of its own: the servers of the other tests use the hooks too. Haystack is imported before the lifespan.
EMBED = """
import asyncio, gc, json, sys, threading, time
from haystack import Pipeline
from haystack.core.serialization_security import _extra_allowed_modules as allowed
import hayhooks.app  # its imports are not part of the lifespan
from hayhooks import Settings, create_app


def process():
    return {
        "meta_path": [repr(finder) for finder in sys.meta_path],
        "path": list(sys.path),
        "from_dict": repr(vars(Pipeline.__mro__[1])["from_dict"]),
        "allowed": list(allowed),
        "frozen": gc.get_freeze_count(),
        "collects": gc.isenabled(),
        "switch_interval": sys.getswitchinterval(),
        "builtins": repr(__builtins__.__import__),
    }


async def serve(app):
    async with app.router.lifespan_context(app):
        while "it" not in app.switch.live.snapshot.deployments:
            await asyncio.sleep(0.01)
        return process()


app = create_app(Settings(pipelines_dir=sys.argv[1], additional_python_path=sys.argv[2], _env_file=None))
before, threads = process(), {thread.name for thread in threading.enumerate()}
during = asyncio.run(serve(app))
end = time.monotonic() + 60  # threads that have nothing to do any more
while (left := {thread.name for thread in threading.enumerate()} - threads) and time.monotonic() < end:
    time.sleep(0.05)
print(json.dumps({"before": before, "during": during, "after": process(), "threads": sorted(left)}))
"""

WRAPPER = """
import shared_by_all
from haystack import Pipeline
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()

    def run_api(self) -> str:
        return "it"
"""


def test_an_embedding_process_is_as_before_when_the_lifespan_has_ended(tmp_path: Path) -> None:
    replace(tmp_path / "pipelines/it/pipeline_wrapper.py", WRAPPER)
    replace(tmp_path / "shared/shared_by_all.py", "")

    result = subprocess.run(
        [sys.executable, "-c", EMBED, str(tmp_path / "pipelines"), str(tmp_path / "shared")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("HAYHOOKS_")},
    )
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])

    assert told["after"] == told["before"]
    assert told["threads"] == []
    changed = {name for name, value in told["during"].items() if value != told["before"][name]}
    assert changed == {"meta_path", "path", "from_dict", "allowed"}  # so it is told apart
