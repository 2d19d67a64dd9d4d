"""A real server in a thread, on a port of its own, over a pipelines directory of its own."""

import functools
import gc
import importlib
import itertools
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from starlette.applications import Starlette

from hayhooks import Settings, create_app
from hayhooks.app import Hayhooks
from hayhooks.server.config import server_options
from hayhooks.testing.client import StoppableServer
from tests.network import connected
from tests.wrappers import source

T = TypeVar("T")

DEADLINE_S = 60.0

HAYSTACK = ("haystack.components.agents", "haystack.components.builders", "haystack.components.generators.chat")

ECHO = "\n" + source("echo")


def eventually(condition: Callable[[], T], what: str = "", deadline_s: float = DEADLINE_S) -> T:
    """Wait until *condition* gives something true, and return that; an error while waiting counts as not yet."""
    began = time.monotonic()
    while True:
        error: Exception | None = None
        try:
            if found := condition():
                return found
        except (AssertionError, LookupError, TypeError, OSError, httpx.HTTPError) as raised:
            error = raised
        waited = time.monotonic() - began
        if waited > deadline_s:
            raise AssertionError(f"not within {deadline_s:g} s: {what or condition}") from error
        time.sleep(min(max(waited / 10, 0.01), 0.04))  # asking takes a processor from what is waited for


class LiveServer:
    """What tests need of a running server."""

    def __init__(self, app: Hayhooks, root: Path, url: str) -> None:
        self.app = app
        self.root = root
        self.url = url
        self.port = int(url.rpartition(":")[2])
        # The client drops an idle connection before the server does: at the same moment a request would be lost.
        limits = httpx.Limits(keepalive_expiry=min(5.0, app.settings.read_timeout / 2))
        self.client = httpx.Client(base_url=url, timeout=30, limits=limits)

    def connected(self, *, timeout_s: float = 30, receive_buffer: int = 0) -> AbstractContextManager[socket.socket]:
        """A raw connection; see ``tests.network.connected``."""
        return connected(self.port, timeout_s=timeout_s, receive_buffer=receive_buffer)

    def write(self, name: str, wrapper: str = ECHO, files: dict[str, str] | None = None, **constants: Any) -> Path:
        """Write the folder *name* as editors do, file by file; *constants* stand in capitals above the wrapper."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in (files or {}).items():
            replace(folder / path, content)
        head = "".join(f"{constant.upper()} = {value!r}\n" for constant, value in constants.items())
        replace(folder / "pipeline_wrapper.py", head + wrapper)
        return folder

    def remove(self, name: str) -> None:
        """Remove the folder *name*."""
        shutil.rmtree(self.root / name)

    def status(self) -> Any:
        """The body of ``/status``."""
        return self.client.get("/status").raise_for_status().json()

    def state(self, name: str) -> Any:
        """The entry of *name* in ``/status``; None if there is none."""
        return next((entry for entry in self.status()["deployments"] if entry["name"] == name), None)

    def run(self, name: str, **arguments: Any) -> Any:
        """The result of ``/{name}/run``."""
        return self.client.post(f"/{name}/run", json=arguments).raise_for_status().json()["result"]

    def serve(self, name: str, wrapper: str = ECHO, files: dict[str, str] | None = None, **constants: Any) -> None:
        """Write the folder *name* and wait until its new revision serves."""
        before = self.state(name)
        self.write(name, wrapper, files, **constants)
        self.eventually(lambda: _is_newer(self.state(name), before), f"{name} to be served")

    @contextmanager
    def in_background(self, path: str, json: Any) -> Iterator["Future[httpx.Response]"]:
        """Post *json* from a thread."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(httpx.post, self.url + path, json=json, timeout=60)

    eventually = staticmethod(eventually)


class SharedServer(LiveServer):
    """A server that the tests of a process share, each of which writes its own deployments.

    The deployment "it" stays until the next test overwrites it, which is quicker than to wait until it is gone.
    """

    _revisions = itertools.count()

    def write(self, name: str, wrapper: str = ECHO, files: dict[str, str] | None = None, **constants: Any) -> Path:
        """Write the folder *name*; its revision is a new one, also where another test has written the same."""
        return super().write(name, f"{wrapper}\n# {next(self._revisions)}\n", files, **constants)

    def clear(self) -> None:
        """Remove every deployment but "it"."""
        for path in self.root.iterdir():
            if path.name != "it":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.eventually(
            lambda: {entry["name"] for entry in self.status()["deployments"]} <= {"it"}, "all but it to be gone"
        )


def _is_newer(state: Any, before: Any) -> bool:
    if not state or state["state"] != "serving":
        return False
    return before is None or state["revision"] != before["revision"]


def replace(path: Path, content: str) -> None:
    """Write *content* to *path* atomically, so that no test sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    temporary.write_text(content)
    os.replace(temporary, path)


@functools.cache
def freeze(_hundreds_of_modules: int) -> None:
    """Let the collection after each retirement pass over pytest, Haystack and the clients, as a process of ours does.

    Looking through all of them took more than half of the time of the tests that deploy something. So did LiteLLM alone
    in the rest of a process that had imported it: it is done again for each new number.
    """
    for name in HAYSTACK:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


@contextmanager
def serving(root: Path, app: Hayhooks | None = None, **settings: Any) -> Iterator[LiveServer]:
    """Serve *root* until the block ends."""
    freeze(len(sys.modules) // 100)
    settings.setdefault("trial_seconds", 0)  # what is replaced goes at once; kernel/test_trial.py has the trial
    app = app or create_app(Settings(pipelines_dir=root, _env_file=None, **settings))
    options = {
        **server_options(app.settings),
        "host": "127.0.0.1",
        "port": settings.get("port", 0),
        "timeout_graceful_shutdown": 10,
    }
    server = StoppableServer(uvicorn.Config(app, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, "the server to start")
        port = server.servers[0].sockets[0].getsockname()[1]
        live = LiveServer(app, root, f"http://127.0.0.1:{port}")
        with live.client:
            yield live
    finally:
        if server.started:
            server.stop()
        server.should_exit = True  # one that has not started
        thread.join(timeout=30)


def again(root: Path, state: Path, **settings: Any) -> AbstractContextManager[LiveServer]:
    """Serve *root* with the state directory *state*, as a process does that starts again."""
    values = {"trial_seconds": 0, **settings, "pipelines_dir": root, "state_dir": str(state)}
    return serving(root, create_app(Settings(_env_file=None, **values)))


@contextmanager
def also_at(app: Starlette, root_path: str = "") -> Iterator[str]:
    """Serve *app*, whose lifespan another server runs already, on another port; yields the URL."""
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", root_path=root_path)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, "the server to start")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
