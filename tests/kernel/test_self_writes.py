"""What a wrapper writes into its own folder."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from hayhooks.kernel.discovery import real_path
from hayhooks.kernel.isolation import close_package, open_package, running_package
from hayhooks.kernel.scan import Scanner
from hayhooks.kernel.self_writes import self_writes
from hayhooks.kernel.state import Revision, Stamp
from tests.live_server import ECHO, LiveServer, eventually, replace, serving

LOGBOOK = """
import itertools, os, pathlib, sqlite3, tempfile
from hayhooks import BasePipelineWrapper

HERE = pathlib.Path(__file__).parent


def append(name):
    with open(HERE / name, "a") as file:
        file.write("again\\n")


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        with open(LOADS, "a") as file:
            file.write("x")
        {in_setup}

    def run_api(self):
        {in_run}
        return ANSWER
"""


@pytest.fixture
def server(root: Path) -> Iterator[LiveServer]:
    with serving(root, poll_interval_ms=100) as server:
        yield server


WRITES = {
    "appends to a log": "append('own.log.txt')",
    "writes new files": "(HERE / f'{os.urandom(4).hex()}.json').write_text('{}')",
    "replaces a file": "append('draft'); os.replace(HERE / 'draft', HERE / 'state.json')",
    "writes a file anew": "(HERE / 'anew').write_text('x')",
    "removes a file": "append('there'); os.remove(HERE / 'there')",
    "keeps a database": "db = sqlite3.connect(HERE / 'db'); db.execute('create table if not exists t(x)'); db.close()",
    "writes below": "os.makedirs(HERE / 'cache', exist_ok=True); append('cache/entry')",
    "changes its directory": "os.chdir(HERE); pathlib.Path('relative').write_text('x'); os.chdir('/')",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_a_wrapper_writes_itself_reloads_nothing_and_edits_still_do(server: LiveServer, tmp_path: Path, write):
    loads = tmp_path / "loads"
    source = LOGBOOK.format(in_setup=write, in_run=write)
    server.serve("writer", source, answer=1, loads=str(loads))
    for _ in range(10):
        assert server.run("writer") == 1
    server.serve("sign", answer="a look after all this")
    look_around(server)
    assert loads.read_text() == "x"

    server.serve("writer", source, answer=2, loads=str(loads))
    assert server.run("writer") == 2
    look_around(server)
    assert loads.read_text() == "xx"


def test_what_others_write_there_is_a_change(server: LiveServer, tmp_path: Path):
    loads = tmp_path / "loads"
    server.serve("writer", LOGBOOK.format(in_setup="pass", in_run="pass"), answer=1, loads=str(loads))

    replace(server.root / "writer/prompt.txt", "from outside")
    server.eventually(lambda: loads.read_text() == "xx")

    other = f"import pathlib\npathlib.Path({str(server.root)!r}, 'writer', 'prompt.txt').write_text('by another')"
    server.serve("other", f"{other}\n{ECHO}", answer=1)
    server.eventually(lambda: loads.read_text() == "xxx")


CHURN = {
    "removed": "path = HERE / name; path.write_text('x'); path.unlink()",
    "renamed": "path = HERE / name; path.write_text('x'); path.rename(HERE / 'last.json')",
    "removed with its folder": "(HERE / name).mkdir(); (HERE / name / 'x').write_text('x'); shutil.rmtree(HERE / name)",
    "hidden": "(HERE / f'.{name}').write_text('x')",
}


@pytest.mark.parametrize("write", CHURN.values(), ids=CHURN)
def test_names_of_files_that_it_removed_are_forgotten(server: LiveServer, tmp_path: Path, write: str):
    loads = tmp_path / "loads"
    churn = f"import shutil\n        for n in range(300):\n            name = f'{{n}}.txt'; {write}"
    server.serve("writer", LOGBOOK.format(in_setup="pass", in_run=churn), answer=1, loads=str(loads))
    folder = real_path(server.root / "writer")

    for _ in range(3):
        assert server.run("writer") == 1
        server.eventually(lambda: len(self_writes.written_in(folder)) <= 1)
    look_around(server)

    assert loads.read_text() == "x"


def test_a_file_that_was_there_costs_one_load_more(server: LiveServer, tmp_path: Path):
    loads = tmp_path / "loads"
    source = LOGBOOK.format(in_setup="append('own.txt')", in_run="append('own.txt')")
    server.write("writer", source, {"own.txt": "before"}, answer=1, loads=str(loads))
    server.eventually(lambda: server.run("writer") == 1)
    for _ in range(10):
        server.run("writer")
    look_around(server)

    assert len(loads.read_text()) <= 2


def test_data_that_never_keeps_still_does_not_hold_up_an_edit_for_ever(server: LiveServer, tmp_path: Path):
    """Written unseen, here by a process that the wrapper starts."""
    process = (
        "self.process = __import__('subprocess').Popen(['sh', '-c', "
        "f'while [ -d {HERE} ]; do date +%N > {HERE}/now.txt; sleep 0.01; done'])"
    )
    source = LOGBOOK.format(in_setup=process, in_run="pass").replace(
        "    def run_api",
        "    def teardown(self):\n        self.process.kill()\n        self.process.wait()\n\n    def run_api",
    )
    loads = tmp_path / "loads"
    server.write("writer", source, answer=1, loads=str(loads))
    server.eventually(lambda: server.run("writer") == 1, deadline_s=60)

    server.write("writer", source, answer=2, loads=str(loads))
    server.eventually(lambda: server.run("writer") == 2, deadline_s=60)

    assert len(loads.read_text()) < 30
    os.rename(server.root / "writer", tmp_path / "away")  # what is written all the time cannot be removed
    server.eventually(lambda: server.state("writer") is None)


def test_a_file_that_is_still_being_opened_is_not_yet_written(tmp_path: Path):
    """Opening one may take long on a busy machine, and change it meanwhile; that of a pipe takes until it is read."""
    self_writes.install_audit_hook()
    folder = real_path(tmp_path)
    pipe = f"{folder}/pipe"
    os.mkfifo(pipe)
    package = open_package(Revision("writer", tmp_path, "0" * 32))

    def write() -> None:
        with running_package(package), open(pipe, "w"):
            pass

    def is_own_when_touched(mtime_ns: int) -> bool:
        os.utime(pipe, ns=(mtime_ns, mtime_ns))
        return self_writes.is_self_written(folder, pipe, Stamp.of(os.stat(pipe)))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        eventually(lambda: pipe in self_writes.written_in(folder))
        assert [is_own_when_touched(mtime_ns) for mtime_ns in (1, 2, 3)] == [True, True, True]

        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        thread.join(timeout=60)
        os.close(reader)
        assert is_own_when_touched(4)  # as it was left
        assert not is_own_when_touched(5)
    finally:
        close_package(package)
        self_writes.forget(folder)


def look_around(server: LiveServer) -> None:
    """Wait until the whole directory has been looked at twice more."""
    assert server.app.reconciler is not None
    scanner = server.app.reconciler._scanner
    for _ in range(2):
        last = scanner._scanned_at
        server.eventually(partial(_is_after, scanner, last))


def _is_after(scanner: Scanner, moment: float) -> bool:
    return scanner._scanned_at > moment
