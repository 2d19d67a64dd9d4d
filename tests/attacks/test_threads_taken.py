"""Code of a wrapper takes every thread that it can get: nobody else waits for one, the server's stop neither."""

import io
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.cli.processes import started
from tests.live_server import LiveServer, eventually, replace, serving

THREADS = 3

HOG = """
import asyncio
import threading
import time
from pathlib import Path

import anyio.to_thread
from starlette.concurrency import run_in_threadpool

from hayhooks import BasePipelineWrapper

running = []


def hold():
    running.append(1)
    while not Path(GATE).exists():
        time.sleep(0.02)
    running.pop()


async def take(how):
    loop = asyncio.get_running_loop()
    if how == "to_thread":
        await asyncio.to_thread(hold)
    elif how == "executor":
        await loop.run_in_executor(None, hold)
    elif how == "anyio":
        await anyio.to_thread.run_sync(hold, abandon_on_cancel=True)
    else:
        await run_in_threadpool(hold)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.taken = set()

    async def run_api_async(self, how: str, count: int, outside: bool = False) -> int:
        loop = asyncio.get_running_loop()

        def start():
            self.taken |= {loop.create_task(take(how)) for _ in range(count)}

        if outside:  # from a thread of its own, to which nothing says whose it is
            threading.Thread(target=loop.call_soon_threadsafe, args=(start,)).start()
        else:
            start()
        return len(running)

    def run_response(self, model, input_items, body) -> str:
        return str(len(running))

    def teardown(self):
        Path(GATE + "-torn-down").touch()
"""

OTHER = """
import asyncio

import anyio.to_thread
from haystack import Pipeline, component
from starlette.datastructures import UploadFile

from hayhooks import BasePipelineWrapper


@component
class SyncOnly:
    @component.output_types(text=str)
    def run(self, text: str):
        return {"text": text}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.pipeline = Pipeline()
        self.pipeline.add_component("it", SyncOnly())

    async def run_api_async(self, text: str, file: UploadFile | None = None) -> str:
        read = str(len(await file.read())) if file else ""
        result = await self.pipeline.run_async({"it": {"text": text}})
        return await anyio.to_thread.run_sync(str, result["it"]["text"]) + await asyncio.to_thread(str, read)
"""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The threads that are taken are given back when this file exists."""
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, threads=THREADS) as server:
        yield server


def all_else_answers(server: LiveServer) -> None:
    """Every answer that needs a thread is given, to whoever asks for it."""
    megabytes = 3 * 2**20  # such a file is put on disk, which takes a thread
    client = httpx.Client(base_url=server.url, timeout=60)
    with client:
        assert client.post("/other/run", json={"text": "hi"}).json() == {"result": "hi"}
        upload = client.post("/other/run", files={"file": io.BytesIO(b"x" * megabytes)}, data={"text": "hi"})
        assert upload.json() == {"result": f"hi{megabytes}"}
        for path in ("/openapi.json", "/openapi.yaml", "/draw/other", "/docs/swagger_style.css", "/metrics"):
            assert client.get(path).status_code == 200, path
        for name in ("hog", "other"):
            assert client.get(f"/{name}/schema").status_code == 200
        assert client.get("/status").json()["pipelines"] == ["hog", "other"]


@pytest.mark.parametrize("outside", [False, True], ids=["its-own", "outside"])
@pytest.mark.parametrize("how", ["to_thread", "executor", "anyio", "starlette"])
def test_no_pipeline_takes_the_threads_of_anybody_else(server: LiveServer, gate: Path, how: str, outside: bool):
    server.serve("hog", HOG, gate=str(gate))
    server.serve("other", OTHER)
    server.run("hog", how=how, count=60, outside=outside)
    server.eventually(lambda: server.run("hog", how=how, count=0) >= THREADS)

    all_else_answers(server)
    assert server.run("hog", how=how, count=0) <= (60 if outside else THREADS)
    if not outside:
        server.serve("third", OTHER)
        assert server.run("third", text="new") == "new"


def test_what_a_pipeline_hands_to_threads_is_run_in_the_end(server: LiveServer, gate: Path):
    server.serve("hog", HOG, gate=str(gate))
    for how in ("to_thread", "anyio"):
        server.run("hog", how=how, count=20)
    server.eventually(lambda: server.run("hog", how="", count=0) == 2 * THREADS)
    gate.touch()
    server.eventually(lambda: server.run("hog", how="", count=0) == 0)


@pytest.mark.parametrize("how", ["to_thread", "anyio"])
def test_a_thread_that_hangs_delays_no_retirement(server: LiveServer, gate: Path, how: str):
    server.serve("hog", HOG, gate=str(gate))
    server.run("hog", how=how, count=20)
    server.eventually(lambda: server.run("hog", how=how, count=0) == THREADS)
    server.serve("hog", OTHER)

    eventually(Path(f"{gate}-torn-down").exists)
    assert server.run("hog", text="new") == "new"


def test_reloads_leave_no_threads_behind(server: LiveServer, gate: Path):
    gate.touch()
    for number in range(5):
        server.serve("hog", HOG, gate=str(gate), number=number)
        for how in ("to_thread", "anyio"):
            server.run("hog", how=how, count=5)
    server.remove("hog")
    server.eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("hayhooks hog")])


def test_a_task_that_outlives_its_revision_still_gets_threads(server: LiveServer, gate: Path):
    server.serve("late", LATE, gate=str(gate))
    server.run("late")
    server.serve("late", OTHER)
    server.eventually(lambda: not server.status()["retired"])
    gate.touch()
    eventually(Path(f"{gate}-threads").exists)
    assert Path(f"{gate}-threads").read_text() == "late"


LATE = """
import asyncio
from pathlib import Path

import anyio.to_thread

from hayhooks import BasePipelineWrapper


async def later():
    while not Path(GATE).exists():
        await asyncio.sleep(0.02)
    text = await asyncio.to_thread(str, "la") + await anyio.to_thread.run_sync(str, "te")
    Path(GATE + "-threads").write_text(text)


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self) -> None:
        globals()["task"] = asyncio.create_task(later())
"""


SLEEPER = """
import asyncio
import threading
import time

import anyio.to_thread

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.tasks = []

    def run_api(self) -> None:
        time.sleep(300)

    async def run_response_async(self, model, input_items, body) -> None:
        await asyncio.to_thread(time.sleep, 300)

    async def run_chat_completion_async(self, model, messages, body) -> str:
        loop = asyncio.get_running_loop()
        threading.Thread(target=loop.call_soon_threadsafe, args=(self.take,)).start()
        threading.Thread(target=time.sleep, args=(300,)).start()
        self.take()
        await asyncio.sleep(0.2)
        return "taken"

    def take(self):
        loop = asyncio.get_running_loop()
        for _ in range(50):
            self.tasks.append(loop.create_task(asyncio.to_thread(time.sleep, 300)))
            self.tasks.append(loop.create_task(anyio.to_thread.run_sync(time.sleep, 300)))
"""

BLOCKER = """
import time

from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self) -> None:
        print("blocks", flush=True)
        time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["sleeper/run", "responses", "chat/completions"])
def test_sigterm_ends_the_process_whatever_sleeps_in_threads(tmp_path: Path, asked: str):
    replace(tmp_path / "pipelines/sleeper/pipeline_wrapper.py", SLEEPER)
    body = {"model": "sleeper", "input": "x", "messages": [{"role": "user", "content": "x"}]}
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        began = time.monotonic()
        with suppress(httpx.ReadTimeout):  # the others sleep too
            httpx.post(f"{server.url}/{asked}", json=body if asked != "sleeper/run" else {}, timeout=1)

        assert server.stop() == 0
    assert time.monotonic() - began < 100  # of 300 s that each thread sleeps


@pytest.mark.slow
def test_sigterm_ends_the_process_whatever_a_teardown_does(tmp_path: Path):
    wrapper = SLEEPER + "\n    def teardown(self):\n        time.sleep(300)\n"
    for name in ("one", "two", "three"):
        replace(tmp_path / f"pipelines/{name}/pipeline_wrapper.py", wrapper)
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        began = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - began < 100


@pytest.mark.slow
def test_sigterm_ends_a_process_whose_event_loop_stands(tmp_path: Path):
    replace(tmp_path / "pipelines/blocker/pipeline_wrapper.py", BLOCKER)
    with started(tmp_path, "run", GRACEFUL_SHUTDOWN_TIMEOUT="1") as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(server.url + "/blocker/run", json={}, timeout=1)
        server.prints("blocks")

        assert server.stop(signal.SIGTERM) == 0
