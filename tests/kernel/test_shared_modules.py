"""Modules of the additional Python path: an edit reloads who imports them, and nobody else."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hayhooks.kernel.scan import EVERYTHING, Scanner
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


LATE = """
from hayhooks import BasePipelineWrapper
{statement}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        self.at_setup = {expression}

    def run_api(self):
        {statement}
        return [self.at_setup, {expression}]
"""


@pytest.mark.parametrize(
    ("files", "statement", "expression", "lost"),
    [
        (["{m}.py"], "import {m}", "{m}.ANSWER", "{m}.py"),
        (["{m}.py"], "from {m} import ANSWER", "ANSWER", "{m}.py"),
        (["{m}/__init__.py"], "import {m}", "{m}.ANSWER", "{m}"),
        (["{m}/__init__.py"], "from {m} import ANSWER", "ANSWER", "{m}/__init__.py"),
        (["{m}/__init__.py", "{m}/sub.py"], "import {m}.sub", "{m}.sub.ANSWER", "{m}/sub.py"),
        (["{m}/__init__.py", "{m}/sub.py"], "from {m} import sub", "sub.ANSWER", "{m}/sub.py"),
        (["{m}/__init__.py", "{m}/sub.py"], "from {m}.sub import ANSWER", "ANSWER", "{m}"),
        (["{m}/sub.py"], "from {m} import sub", "sub.ANSWER", "{m}/sub.py"),
        (["{m}/sub.py"], "import {m}.sub as sub", "sub.ANSWER", "{m}"),
        (["{m}/deep/__init__.py"], "from {m} import deep", "deep.ANSWER", "{m}/deep"),
        (["{m}.py"], "from {m} import ANSWER", "ANSWER", ""),
    ],
)
def test_a_module_that_is_removed_is_a_failure(server, library, module, files, statement, expression, lost):
    for file in files:
        replace(library / file.format(m=module), "ANSWER = 1")
    wrapper = LATE.format(statement=statement, expression=expression).format(m=module)
    server.serve("user", wrapper)
    lost_path, aside = library / lost.format(m=module), library.parent / "aside"

    lost_path.rename(aside)
    server.eventually(lambda: server.state("user")["state"] == "stale")
    assert module in server.state("user")["error"]
    assert server.run("user") == [1, 1]
    server.write("user", wrapper + "# edited")  # another load of the same: it must not find what the first one restored
    failed = server.state("user")["failed_revision"]
    server.eventually(lambda: server.state("user")["failed_revision"] != failed)
    assert server.state("user")["state"] == "stale"
    assert server.run("user") == [1, 1]

    aside.rename(lost_path)
    server.eventually(lambda: server.state("user")["state"] == "serving")


def test_a_module_that_another_shared_one_imports_is_removed(server, library, module):
    replace(library / f"{module}.py", f"from {module}_too import ANSWER")
    replace(library / f"{module}_too.py", "ANSWER = 1")
    server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))

    (library / f"{module}_too.py").rename(library / f"{module}_renamed.py")
    server.eventually(lambda: server.state("user")["state"] == "stale")
    assert server.run("user") == 1

    replace(library / f"{module}.py", f"from {module}_renamed import ANSWER")
    server.eventually(lambda: server.state("user")["state"] == "serving")


def test_a_component_in_yaml_whose_module_is_removed(server, library, module):
    component = """
from haystack import component

@component
class Answer:
    @component.output_types(value=int)
    def run(self, number: int):
        return {"value": number + 1}
"""
    yaml = """
components:
  answer: {{type: {m}.Answer, init_parameters: {{}}}}
connections: []
inputs: {{number: answer.number}}
outputs: {{value: answer.value}}
"""
    replace(library / f"{module}.py", component)
    replace(server.root / "yaml.yml", yaml.format(m=module))
    server.eventually(lambda: server.state("yaml")["state"] == "serving")

    (library / f"{module}.py").unlink()

    server.eventually(lambda: server.state("yaml")["state"] == "stale")
    assert module in server.state("yaml")["error"]


def test_another_directory_provides_the_name(root, library, tmp_path, module):
    other = tmp_path / "other"
    with serving(root, additional_python_path=f"{library}:{other}") as server:
        replace(library / f"{module}.py", "ANSWER = 'first'")
        replace(other / f"{module}.py", "ANSWER = 'second'")
        replace(other / f"{module}_package/__init__.py", "")
        replace(other / f"{module}_package/sub.py", "ANSWER = 'second'")
        server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
        package = f"{module}_package.sub"
        server.serve("packed", IMPORTER.format(statement=f"import {package}", expression=f"{package}.ANSWER"))
        assert server.run("user") == "first"

        (library / f"{module}.py").unlink()
        server.eventually(lambda: server.run("user") == "second")

        replace(library / f"{module}_package/__init__.py", "")  # without `sub`
        server.eventually(lambda: server.state("packed")["state"] == "stale")
        assert server.run("packed") == "second"


def test_a_directory_that_is_taken_off_the_path(root, library, tmp_path, module):
    replace(library / f"{module}.py", "ANSWER = 'here'")
    with serving(root, additional_python_path=str(library)) as server:
        server.serve("user", IMPORTER.format(statement=f"import {module}", expression=f"{module}.ANSWER"))
    with serving(root, additional_python_path=str(tmp_path / "other")) as server:
        server.eventually(lambda: server.state("user")["state"] == "failed")


@pytest.mark.parametrize("init", ["PACKAGE = 1", None])
def test_the_old_revision_keeps_its_sub_modules(server, library, module, init):
    if init:
        replace(library / f"{module}/__init__.py", init)
    replace(library / f"{module}/edited.py", "ANSWER = 1")
    replace(library / f"{module}/kept.py", "import uuid\nLOADED = uuid.uuid4().hex")
    statement = f"import {module}.edited, {module}.kept"
    live = IMPORTER.replace("self.setup_answer\n", f"[{module}.edited.ANSWER, {module}.kept.LOADED]\n")
    server.serve("user", live.format(statement=statement, expression="0"))
    [answer, loaded] = server.run("user")

    replace(library / f"{module}/edited.py", "ANSWER = 2")
    server.eventually(lambda: server.run("user")[0] == 2)
    assert server.run("user") == [2, loaded]  # which has not changed, and may be costly to load
    server.write("user", live.format(statement=statement, expression="1 / 0"))
    server.eventually(lambda: server.state("user")["state"] == "stale")
    replace(library / f"{module}/edited.py", "ANSWER = 3")
    server.eventually(lambda: server.state("user")["failed_revision"])

    assert (answer, server.run("user")) == (1, [2, loaded])


def test_the_id_does_not_depend_on_where_the_directories_are(tmp_path, module):
    revisions = []
    for copy in ("one", "two"):
        replace(tmp_path / copy / f"library/{module}/__init__.py", f"from {module}.sub import ANSWER")
        replace(tmp_path / copy / f"library/{module}/sub.py", "ANSWER = 1")
        wrapper = IMPORTER.format(statement=f"from {module} import ANSWER", expression="ANSWER")
        replace(tmp_path / copy / "user/pipeline_wrapper.py", wrapper)
        path = [str(tmp_path / copy / "library")]
        scanner = Scanner(tmp_path / copy, python_path=path, debounce_s=0, removal_grace_s=0)
        revisions.append(scanner.read_one("user", tmp_path / copy / "user", 0.0))

    [one, two] = revisions
    assert one
    assert two
    assert one.shared
    assert one.id == two.id


def test_only_files_that_somebody_touched_are_changed(server, library, module):
    replace(library / f"{module}.py", f"import {module}_deep\nANSWER = 'a'")
    replace(library / f"{module}_deep.py", "")
    replace(library / f"{module}_other.py", "")
    wrapper = IMPORTER.format(statement=f"from {module} import ANSWER", expression="ANSWER")
    server.serve("user", wrapper)

    def changed_by(path: Path, content: str) -> list[str]:
        before = server.app.reconciler.found("user")
        replace(path, content)
        server.eventually(lambda: server.app.reconciler.found("user").id != before.id)
        return [Path(file).name for file in server.app.reconciler.found("user").changed_since(before)]

    own = server.root / "user/pipeline_wrapper.py"
    assert changed_by(library / f"{module}_deep.py", "# edited") == [f"{module}_deep.py"]
    assert changed_by(library / f"{module}.py", "import ") == [f"{module}.py"]
    assert changed_by(library / f"{module}.py", f"import {module}_deep\nANSWER = 'b'") == [f"{module}.py"]
    assert changed_by(own, "import ") == ["pipeline_wrapper.py"]
    assert changed_by(own, f"import {module}_other\n{wrapper}") == ["pipeline_wrapper.py"]
    before = server.app.reconciler.found("user")
    (library / f"{module}_deep.py").unlink()
    server.eventually(lambda: server.app.reconciler.found("user").id != before.id)
    assert server.app.reconciler.found("user").changed_since(before) == (str(library / f"{module}_deep.py"),)


@pytest.mark.parametrize("broken", ["import {m}_deep\n\nANSWER = \n", "import {m}_deep\n\n1 / 0\n"])
def test_an_error_is_shown_once_with_its_line_in_the_shared_module(server, library, module, logged, broken):
    replace(library / f"{module}.py", f"from {module}_deep import ANSWER")
    replace(library / f"{module}_deep.py", "ANSWER = 1")
    for name in ("one", "two", "three"):
        server.serve(name, IMPORTER.format(statement=f"from {module} import ANSWER", expression="ANSWER"))

    for attempt in range(2):  # the same error, told again after another save
        logged.clear()
        replace(library / f"{module}_deep.py", broken.format(m="os" if attempt else "sys").replace("_deep", ""))
        server.eventually(lambda: sum("ERROR Failed to load" in entry for entry in logged) == 3)

        entries = [entry for entry in logged if "ERROR Failed to load" in entry]
        place = f"{library / module}_deep.py:3"
        assert sum(f"at {place}: " in entry for entry in entries) == 1
        assert sum(entry.endswith(place) and ": as " in entry for entry in entries) == 2
        assert all("keeps serving" in entry for entry in entries)
        assert [server.run(name) for name in ("one", "two", "three")] == [1, 1, 1]


def test_to_import_it_no_more_is_one_new_revision(root, library, module):
    replace(library / f"{module}.py", "ANSWER = 1")
    scanner = Scanner(root, python_path=[str(library)], debounce_s=0, removal_grace_s=0)
    ids = []
    for now, statement in enumerate([f"import {module}", "", "", ""]):
        wrapper = IMPORTER.format(statement=statement, expression="2")
        if now < 2:
            replace(root / "user/pipeline_wrapper.py", wrapper)
        ids.append(scanner.scan(float(now), EVERYTHING).revisions["user"].id)

    assert ids[0] != ids[1]
    assert len(set(ids[1:])) == 1


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
