"""Soak test: writers change a pipelines directory as people and tools do, while clients send requests.

Among the changes are canaries, revisions that fail their requests, and ``hayhooks pipeline rollback``. Checks: no
request fails but by the code of its revision, and no answer mixes versions. After the writers stop, the server serves
the same as a fresh one on the same directory, and memory, threads, file descriptors and modules have not grown. Prints
figures; the exit status is 1 if a check fails.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

HAYHOOKS = Path(sys.executable).with_name("hayhooks")
DEADLINE_S = 60
GROWTH_MB = 60  # freed memory that the allocator may keep
FAILURE = "as the soak test wants it"  # what a wrapper raises

WRAPPER = """
import gc, os, sys, threading
from pathlib import Path
from hayhooks import BasePipelineWrapper
{statement}
VERSION = {version}


class PipelineWrapper(BasePipelineWrapper):
    canary = {canary}

    def setup(self):
        {setup}
        self.prompt = int((Path(__file__).parent / "prompt.txt").read_text())

    def run_api(self, stream: bool = False):
        if {fails}:
            raise RuntimeError("{failure}")
        return self.words() if stream else [VERSION, helper.VERSION, self.prompt]

    def words(self):
        yield from (f"{{VERSION}} ", f"{{helper.VERSION}} ", str(self.prompt))
"""

PROBE = """
import gc, os, sys, threading
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self): pass

    def run_api(self) -> dict:
        gc.collect()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "resident_mb": int(status["VmRSS"].split()[0]) // 1024,
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "modules": len(sys.modules),
        }
"""


class Writer(threading.Thread):
    """Runs random operations on its own folders; each writes a complete new version or none."""

    def __init__(self, root: Path, beside: Path, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.names = [f"app{number}_{index}" for index in range(3)]
        self.done: Counter[str] = Counter()
        self.stopped = threading.Event()
        self.finished = False
        self._root = root
        self._state = state_of(root)
        self._beside = beside / f"writer{number}"
        self._beside.mkdir(parents=True)
        self._random = random.Random(f"{seed}.{number}")
        self._version = 0
        for name in self.names:
            self._write(self._root / name)

    def run(self) -> None:
        operations: list[Callable[[Path], None]] = [
            self.move_in, self.replace_link, self.remove_and_copy, self.remove, self.break_wrapper, self.break_helper,
            self.touch, self.leave_junk, self.grow_data, self.slow_setup, self.write_own, self.begin_canary,
            self.fail_requests, self.roll_back,
        ]  # fmt: skip
        while not self.stopped.is_set():
            operation = self._random.choice(operations)
            operation(self._root / self._random.choice(self.names))
            self.done[operation.__name__] += 1
            time.sleep(self._random.uniform(0.005, 0.2))
        for name in self.names:  # no folder stays broken or removed
            self._replace(self._root / name)
        self.finished = True

    def move_in(self, app: Path) -> None:
        self._replace(app)

    def remove_and_copy(self, app: Path) -> None:
        self._write(self._beside / "copy")
        self._clear(app)
        shutil.copytree(self._beside / "copy", app)

    def replace_link(self, app: Path) -> None:
        release = self._beside / f"release-{self._version + 1}"
        self._write(release)
        (self._beside / "link").symlink_to(release)
        if not app.is_symlink():
            self._clear(app)
        os.replace(self._beside / "link", app)

    def break_wrapper(self, app: Path) -> None:
        if app.exists():
            _save(
                app / "pipeline_wrapper.py", self._random.choice(["def broken(:", "", "raise SystemExit(1)", "1 / 0"])
            )

    def break_helper(self, app: Path) -> None:
        if app.exists():
            _save(app / "helper.py", "import nothing_of_this_name")

    def remove(self, app: Path) -> None:
        self._clear(app)

    def touch(self, app: Path) -> None:
        for file in app.glob("*.py"):
            file.touch()

    def leave_junk(self, app: Path) -> None:
        if app.exists():
            (app / "4913").touch()
            (app / ".hidden").write_text(str(self._version))
            (app / "notes.txt~").touch()

    def grow_data(self, app: Path) -> None:
        if app.exists():
            with (app / "data.bin").open("ab") as file:
                file.write(b"x" * 1000)

    def slow_setup(self, app: Path) -> None:
        self._replace(app, setup="import time; time.sleep(0.3)")

    def write_own(self, app: Path) -> None:
        self._replace(app, setup="(Path(__file__).parent / 'own.json').write_text(str(VERSION))")

    def begin_canary(self, app: Path) -> None:
        self._replace(app, canary=0.5, fails=self._random.random() < 0.3)

    def fail_requests(self, app: Path) -> None:
        self._replace(app, fails=True)

    def roll_back(self, app: Path) -> None:
        command = [HAYHOOKS, "pipeline", "rollback", app.name, "--force", "--port", "1"]  # the server is not waited for
        environment = {**os.environ, "HAYHOOKS_PIPELINES_DIR": str(self._root), "HAYHOOKS_STATE_DIR": str(self._state)}
        subprocess.run(
            command, env=environment, capture_output=True, timeout=DEADLINE_S, check=False
        )  # there may be none

    def _replace(self, app: Path, setup: str = "pass", canary: float = 0, *, fails: bool = False) -> None:
        """Replace the folder with a new version by renames."""
        new = self._beside / "new"
        self._write(new, setup, canary, fails=fails)
        self._clear(app)
        os.rename(new, app)

    def _write(self, folder: Path, setup: str = "pass", canary: float = 0, *, fails: bool = False) -> None:
        self._clear(folder)
        self._version += 1
        _save(folder / "prompt.txt", str(self._version))
        _save(folder / "helper.py", f"VERSION = {self._version}\n")
        source = WRAPPER.format(
            version=self._version,
            setup=setup,
            statement="import helper",
            canary=canary,
            fails=fails,
            failure=FAILURE,
        )
        _save(folder / "pipeline_wrapper.py", source)

    def _clear(self, folder: Path) -> None:
        """Rename the folder away before its removal, so that it disappears at once."""
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            away = self._beside / "away"
            os.rename(folder, away)
            shutil.rmtree(away)


class Client(threading.Thread):
    """Sends requests to random deployments until it is stopped."""

    def __init__(self, url: str, names: list[str], seed: int) -> None:
        super().__init__(daemon=True)
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.slowest_s = 0.0
        self.stopped = threading.Event()
        self._url = url
        self._names = names
        self._random = random.Random(seed)

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self.stopped.is_set():
                name, stream = self._random.choice(self._names), self._random.random() < 0.3
                began = time.monotonic()
                try:
                    response = client.post(f"/{name}/run", json={"stream": stream})
                    self._check(name, stream, response)
                except httpx.HTTPError as error:
                    self.wrong.append(f"{name}: {error!r}")
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                time.sleep(0.001)

    def _check(self, name: str, stream: bool, response: httpx.Response) -> None:
        """Check an answer; 404 and 503 are right, as writers remove and break folders."""
        self.statuses[response.status_code] += 1
        if response.status_code == 200:
            versions = response.text.split() if stream else response.json()["result"]
            if len(set(versions)) != 1 or len(versions) != 3:
                self.wrong.append(f"{name}: one answer has the versions {versions}")
        elif response.status_code not in (404, 503) and FAILURE not in response.text:
            self.wrong.append(f"{name}: {response.status_code} {response.text[:200]}")


def _save(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{threading.get_ident()}")
    draft.write_text(content)
    os.replace(draft, path)


def state_of(root: Path) -> Path:
    """Return the state directory of the pipelines directory *root*."""
    return root.parent / "state"


@contextmanager
def server(root: Path, log: Path) -> Iterator[str]:
    """Run a server process on a free port; yield its URL when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as output:
        settings = {
            "STATE_DIR": str(state_of(root)),
            "TRIAL_SECONDS": "2",
            "CANARY_SECONDS": "3",
            "CANARY_REQUESTS": "50",
        }
        environment = {**os.environ, **{f"HAYHOOKS_{name}": value for name, value in settings.items()}}
        command = [HAYHOOKS, "run", "--port", str(port), "--pipelines-dir", str(root)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: httpx.get(f"{url}/readyz").status_code == 200, "the server is ready")
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until *condition* holds."""
    end = time.monotonic() + DEADLINE_S
    while True:
        error: Exception | None = None
        try:
            if condition():
                return
        except (httpx.HTTPError, LookupError, TypeError) as raised:
            error = raised
        if time.monotonic() > end:
            raise TimeoutError(f"timed out after {DEADLINE_S} s; expected: {what}") from error
        time.sleep(0.05)


def served(url: str, names: list[str]) -> dict[str, object]:
    """Return the answer of every deployment."""
    return {name: httpx.post(f"{url}/{name}/run", json={}).json() for name in names}


def is_quiet(url: str) -> bool:
    """Return True if all deployments serve and no replaced one is left; else raise a LookupError."""
    status = httpx.get(f"{url}/status").json()
    not_serving = [entry["name"] for entry in status["deployments"] if entry["state"] != "serving"]
    if not_serving or status["retired"]:
        raise LookupError(f"not serving: {not_serving}, retired: {status['retired']}")
    return True


def soak(seconds: float, writers: int, clients: int, seed: int, directory: Path) -> list[str]:
    """Run the test and print its figures; return the failed checks."""
    root = directory / "pipelines"
    _save(root / "probe/pipeline_wrapper.py", PROBE)
    writer_threads = [Writer(root, directory / "beside", number, seed) for number in range(writers)]
    names = [name for writer in writer_threads for name in writer.names]
    with server(root, directory / "server.log") as url:
        wait_for(lambda: is_quiet(url), "all deployments serve")
        client_threads = [Client(url, names, seed + number) for number in range(clients)]
        before = run_threads(url, writer_threads, client_threads, seconds)
        expected = {name: json.loads((root / name / "prompt.txt").read_text()) for name in names}
        wait_for(
            lambda: {n: a["result"][0] for n, a in served(url, names).items()} == expected, "the last versions serve"
        )
        wait_for(lambda: is_quiet(url), "all replaced deployments are torn down")
        after = figures(url)
        actual = served(url, names)
        generation = httpx.get(f"{url}/status").json()["generation"]
    with server(root, directory / "fresh.log") as url:
        fresh = served(url, names)

    done = sum((writer.done for writer in writer_threads), Counter[str]())
    statuses = sum((client.statuses for client in client_threads), Counter[int]())
    print(f"seed {seed}, {seconds:g} s, {writers} writers, {clients} clients")
    print(f"operations {done.total()}: {dict(done.most_common())}")
    print(f"generations {generation}, answers {statuses.total()}: {dict(statuses)}")
    print(f"slowest answer {max(client.slowest_s for client in client_threads) * 1000:.0f} ms")
    print(f"before {before}")
    print(f"after  {after}")
    wrong = [wrong for client in client_threads for wrong in client.wrong]
    if actual != fresh:
        wrong.append(f"serves {actual}, but a fresh server serves {fresh}")
    allowed = {"resident_mb": GROWTH_MB, "modules": 4 * len(names), "descriptors": 20, "threads": 4 * len(names)}
    wrong += [
        f"{name}: {before[name]} before, {after[name]} after, allowed growth {growth}"
        for name, growth in allowed.items()
        if after[name] > before[name] + growth
    ]
    return wrong


def run_threads(url: str, writer_threads: list[Writer], client_threads: list[Client], seconds: float) -> dict[str, int]:
    """Run all threads for *seconds*; return the server's figures after a warm-up."""
    for thread in (*writer_threads, *client_threads):
        thread.start()
    warm_up = min(seconds / 3, 60)
    time.sleep(warm_up)
    early = figures(url)
    time.sleep(seconds - warm_up)
    for group in (writer_threads, client_threads):
        for thread in group:
            thread.stopped.set()
        for thread in group:
            thread.join(timeout=60)
    if not all(writer.finished for writer in writer_threads):
        raise RuntimeError("a writer failed; see its traceback above")
    return early


def figures(url: str) -> dict[str, int]:
    """Return the server process's memory, threads, file descriptors and modules."""
    found: dict[str, int] = httpx.post(f"{url}/probe/run", json={}).json()["result"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="duration (default: 5)")
    parser.add_argument("--writers", type=int, default=3, help="threads that change the directory (default: 3)")
    parser.add_argument("--clients", type=int, default=4, help="threads that send requests (default: 4)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hayhooks-soak-") as directory:
        wrong = soak(options.minutes * 60, options.writers, options.clients, options.seed, Path(directory))
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    print("all well" if not wrong else f"{len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
