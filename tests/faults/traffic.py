"""Clients that never stop asking while something happens to the directory, and what they must never see."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.live_server import LiveServer, replace
from tests.wrappers import source

# Version n of the deployment under test. The version is said three times, in three files: an answer of mixed versions
# is a torn revision.
WRAPPER = """
import helper
from pathlib import Path
from hayhooks import BasePipelineWrapper

VERSION = {version}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.prompt = int((Path(__file__).parent / "data" / "prompt.txt").read_text())

    def run_api(self) -> list[int]:
        return [VERSION, helper.VERSION, self.prompt]

    def run_chat_completion(self, model, messages, body):
        yield str(VERSION)
        yield f" {{helper.VERSION}}"
"""

BYSTANDER = source("bystander")


def files(version: int) -> dict[str, str]:
    """The files of version *version*, all of the same sizes for versions of one length."""
    return {
        "data/prompt.txt": str(version),
        "helper.py": f"VERSION = {version}\n",
        "pipeline_wrapper.py": WRAPPER.format(version=version),
    }


def write(folder: Path, version: int) -> Path:
    """Write version *version* to *folder*, each file atomically, the wrapper last."""
    for path, content in files(version).items():
        replace(folder / path, content)
    return folder


class Traffic:
    """What is asked for all the time, and every answer that may not be."""

    def __init__(self, server: LiveServer) -> None:
        self.server = server
        self.wrong: list[str] = []
        self.between = ""  # what an answer may say because the files did so between two edits
        self.asked = 0
        self._stop = threading.Event()
        self._lowest = 0
        self._born = server.run("bystander")

    def serves(self, version: int) -> None:
        """Wait until *version* serves; no later request may be answered by an older one."""
        self.server.eventually(lambda: self.server.run("app") == [version] * 3, f"version {version} to be served")
        self._lowest = version

    def serves_again(self, version: int) -> None:
        """As ``serves``, where *version* may be an older one: the directory went back to it."""
        self._lowest = 0
        self.server.eventually(lambda: self.server.run("app") == [version] * 3, f"version {version} to be served")

    @contextmanager
    def flowing(self) -> Iterator["Traffic"]:
        """Ask until the block ends, then tell whether all was well."""
        # The pauses leave the processor to what is tested; a list of many deployments takes long to make and to read.
        asks = {self._run: 0.005, self._chat: 0.005, self._bystander: 0.01, self._lists: 0.05}
        threads = [threading.Thread(target=self._ask, args=(ask, pause_s)) for ask, pause_s in asks.items()]
        for thread in threads:
            thread.start()
        try:
            yield self
            self.server.eventually(lambda: self.asked > len(asks))
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(timeout=30)
        assert not self.wrong, self.wrong[:5]

    def _ask(self, ask: Callable[[httpx.Client], None], pause_s: float) -> None:
        with httpx.Client(base_url=self.server.url, timeout=30) as client:
            while not self._stop.wait(pause_s):
                try:
                    ask(client)
                except (httpx.HTTPError, AssertionError, LookupError, ValueError) as error:
                    if not self.between or self.between not in repr(error):
                        self.wrong.append(f"{ask.__name__}: {error!r}")
                self.asked += 1

    def _run(self, client: httpx.Client) -> None:
        lowest = self._lowest
        response = client.post("/app/run", json={})
        assert response.status_code == 200, response.text
        version, helper, prompt = response.json()["result"]
        assert version == helper == prompt, response.text
        assert version >= lowest, f"{version} after {lowest}"

    def _chat(self, client: httpx.Client) -> None:
        body = {"model": "app", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        events = response.text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""], response.text
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-2]]
        version, helper = "".join(delta.get("content") or "" for delta in deltas).split()
        assert version == helper, response.text

    def _bystander(self, client: httpx.Client) -> None:
        response = client.post("/bystander/run", json={})
        assert response.status_code == 200, response.text
        assert response.json()["result"] == self._born, "the bystander was loaded anew"

    def _lists(self, client: httpx.Client) -> None:
        status = client.get("/status").raise_for_status().json()
        assert {"app", "bystander"} <= set(status["pipelines"]), status
        models = client.get("/v1/models").raise_for_status().json()
        assert "app" in [model["id"] for model in models["data"]], models
