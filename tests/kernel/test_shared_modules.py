"""Modules of the additional Python path: an edit reloads who imports them, and nobody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hayhooks.kernel.shared_modules import imported_names
from tests.live_server import LiveServer, replace, serving

IMPORTER = """
from hayhooks import BasePipelineWrapper
{statement}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.setup_answer = {expression}

    def run_api(self):
        return self.setup_answer
"""

_numbers = iter(range(10_000))


@pytest.fixture
def module() -> str:
    """A module name that no other test of this process has imported."""
    return f"shared_{next(_numbers)}"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    library = tmp_path / "library"
    library.mkdir()
    return library


@pytest.fixture
def server(root: Path, library: Path) -> Iterator[LiveServer]:
    with serving(root, additional_python_path=str(library)) as server:
        yield server


def loads(server: LiveServer) -> dict[str, Any]:
    return {entry["name"]: entry["loaded_at"] for entry in server.status()["deployments"]}


def test_an_edit_reloads_the_wrappers_that_import_it_and_only_those(server, library, module):
    replace(library / f"{module}.py", "ANSWER = 'a'")
    replace(library / "unrelated.py", "ANSWER = 'x'")
    server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
    server.serve("late", IMPORTER.format(statement="", expression=f"__import__('{module}').ANSWER"))
    server.serve("other", answer="other ")
    before = loads(server)
    assert server.run("user") == "a"

    for answer in "bcd":  # of one size: never from stale bytecode
        replace(library / f"{module}.py", f"ANSWER = {answer!r}")
        server.eventually(lambda answer=answer: server.run("user") == answer)

    after = loads(server)
    assert after["user"] != before["user"]
    assert after["other"] == before["other"]
    assert after["late"] == before["late"]  # whose import cannot be seen in its source


def test_what_a_shared_module_imports_counts_too(server, library, module):
    replace(library / f"{module}/__init__.py", "from .middle import ANSWER")
    replace(library / f"{module}/middle.py", f"from {module}.deep.inner import ANSWER")
    replace(library / f"{module}/deep/inner.py", "ANSWER = 1")
    statement = f"def answer():\n    from {module} import ANSWER\n    return ANSWER"
    server.serve("user", IMPORTER.format(statement=statement, expression="answer()"))
    assert server.run("user") == 1

    replace(library / f"{module}/deep/inner.py", "ANSWER = 2")

    server.eventually(lambda: server.run("user") == 2)


def test_all_wrappers_get_the_same_module(server, library, module):
    replace(library / f"{module}.py", "import uuid\nANSWER = uuid.uuid4().hex")
    source = IMPORTER.format(statement=f"from {module} import ANSWER", expression="ANSWER")
    server.serve("one", source)
    server.serve("two", source)
    assert server.run("one") == server.run("two")

    before = server.run("one")
    replace(library / f"{module}.py", "import uuid\nANSWER = uuid.uuid4().hex  # new")

    server.eventually(lambda: server.run("one") == server.run("two") != before)


def test_broken_shared_module_fails_its_importers(server, library, module):
    """A broken shared module is a failure of its importers until it is mended."""
    replace(library / f"{module}.py", "ANSWER = 'good'")
    server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))

    replace(library / f"{module}.py", "ANSWER = ")
    server.eventually(lambda: server.state("user")["state"] == "stale")
    assert f"{module}.py" in server.state("user")["error"]
    assert server.run("user") == "good"

    replace(library / f"{module}.py", "ANSWER = 'mended'")
    server.eventually(lambda: server.run("user") == "mended")
    assert server.state("user")["error"] is None


def test_a_missing_one_is_noticed_when_it_comes(server, library, module):
    server.write("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
    server.eventually(lambda: (server.state("user") or {})["state"] == "failed")

    replace(library / f"{module}.py", "ANSWER = 'here'")

    server.eventually(lambda: server.run("user") == "here")


def test_a_touch_reloads_nothing(server, library, module):
    file = library / f"{module}.py"
    replace(file, "ANSWER = 'a'")
    server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
    before = loads(server)

    for _ in range(5):
        file.touch()
        replace(file, "ANSWER = 'a'")
    server.serve("sign", answer="the look after it is over")

    assert loads(server)["user"] == before["user"]


def test_one_that_hangs_keeps_nobody_else(server, library, module, tmp_path):
    gate = tmp_path / "gate"
    hang = f"import pathlib, time\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\nANSWER = 1"
    replace(library / f"{module}.py", hang)
    server.write("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
    server.eventually(lambda: server.state("user")["state"] == "loading")

    server.serve("other", "import colorsys\n" + IMPORTER.format(statement="import quopri", expression="7"))

    assert server.run("other") == 7
    gate.touch()
    server.eventually(lambda: server.run("user") == 1)


@pytest.mark.parametrize(
    ("source", "package", "names"),
    [
        ("import a.b, c as d", "", {"a.b", "c"}),
        ("from a import b", "", {"a", "a.b"}),
        ("def f():\n  if x:\n    import late", "", {"late"}),
        ("from . import x", "pkg.sub", {"pkg.sub", "pkg.sub.x"}),
        ("from ..y import z", "pkg.sub", {"pkg.y", "pkg.y.z"}),
        ("from . import x", "", set()),
        ("from ... import x", "pkg", set()),
        ("this is no Python", "", set()),
        ("\0", "", set()),
    ],
)
def test_the_imports_of_a_source_are_seen(source: str, package: str, names: set[str]):
    assert imported_names(source.encode(), package) == names
