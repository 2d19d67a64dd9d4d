"""A turn of the deployer that fails, by a fault of a plug-in's: the next one makes up for it."""

from collections.abc import Iterable
from pathlib import Path

from starlette.routing import BaseRoute

from hayhooks import Settings, create_app
from hayhooks.endpoints import BUILTIN
from hayhooks.kernel.state import Snapshot
from tests.live_server import ECHO, serving


class RaisesOnce:
    """A plug-in that cannot make its routes of the first snapshot that has *name* in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.raised = False

    def server_routes(self, snapshot: Snapshot) -> Iterable[BaseRoute]:
        if self.name in snapshot.deployments and not self.raised:
            self.raised = True
            raise RuntimeError("a fault of a plug-in's")
        return ()


def test_what_could_not_be_published_is_published_by_the_next_look(root: Path):
    plug_in = RaisesOnce("second")
    settings = Settings(pipelines_dir=root, poll_interval_ms=50, _env_file=None)
    with serving(root, create_app(settings, plug_ins=[*BUILTIN, plug_in])) as server:
        server.serve("first", ECHO, answer="1 ")
        server.write("second", ECHO, answer="2 ")
        server.eventually(lambda: plug_in.raised)

        server.eventually(lambda: server.run("second", text="x") == "2 x")
        server.serve("first", ECHO, answer="3 ")
        assert server.run("first", text="x") == "3 x"


def test_what_is_observed_may_fail(root: Path):
    """As a full disk does under a log."""
    seen = []

    def observe(change: object) -> None:
        seen.append(change)
        raise OSError("no space left on device")

    settings = Settings(pipelines_dir=root, poll_interval_ms=50, _env_file=None)
    with serving(root, create_app(settings, observe=observe)) as server:
        for answer in ("1 ", "2 ", "3 "):
            server.serve("app", ECHO, answer=answer)
            assert server.run("app", text="x") == f"{answer}x"
    assert len(seen) >= 3


class Counts:
    """A plug-in that notes the generations that it makes routes for."""

    def __init__(self) -> None:
        self.generations: list[int] = []

    def server_routes(self, snapshot: Snapshot) -> Iterable[BaseRoute]:
        self.generations.append(snapshot.generation)
        return ()


def test_routes_are_built_once_for_each_generation(root: Path):
    """What is only being loaded is shown by ``/status``, with the routes of before."""
    plug_in = Counts()
    settings = Settings(pipelines_dir=root, poll_interval_ms=50, _env_file=None)
    with serving(root, create_app(settings, plug_ins=[*BUILTIN, plug_in])) as server:
        server.eventually(lambda: server.status()["ready"])
        plug_in.generations.clear()
        for answer in ("1 ", "2 ", "3 "):
            server.serve("app", ECHO, answer=answer)

    assert plug_in.generations == [1, 2, 3]
