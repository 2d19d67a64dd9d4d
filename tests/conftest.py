"""Fixtures for all tests."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, SharedServer, freeze, serving
from tests.logs import log_to_stderr
from tests.logs import logged as logged_lines

for name in [name for name in os.environ if name.startswith("HAYHOOKS_") or name in ("LOG", "LOG_LEVEL")]:
    del os.environ[name]  # the settings of whoever runs the tests are not theirs
_state_home = tempfile.TemporaryDirectory()  # a server's state directory is not in the home of who runs the tests
os.environ["XDG_STATE_HOME"] = _state_home.name
sys.dont_write_bytecode = False  # it would hide that a deployment never runs from stale bytecode
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "false"
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script, and so in all processes
    signal.signal(signal.SIGINT, signal.default_int_handler)
log_to_stderr()
# httpx reads all certificates to trust for each client, up to 44 ms; what we call has plain HTTP or brings its own.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))


gc.disable()  # a tenth of the time of the collection of tests, which makes no garbage


def pytest_collection_finish() -> None:
    """Begin to collect garbage, and let the pytest of users, as tests run it, load no plug-ins: that takes 1 s."""
    gc.enable()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # not earlier: the workers of xdist need theirs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let every worker of xdist begin with its part of the slow tests, so that none is left for the end."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    quick = [item for item in items if not item.get_closest_marker("slow")]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = -(-len(items) // workers)  # each gets so many, in the order of the list
    items.clear()
    for worker in range(workers):
        items += slow[worker::workers]
        rest = share * (worker + 1) - len(items)
        items += quick[:rest]
        del quick[:rest]


@pytest.fixture(scope="module", autouse=True)
def _imports_frozen() -> None:
    freeze(len(sys.modules) // 100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty pipelines directory."""
    root = tmp_path / "pipelines"
    root.mkdir()
    return root


@pytest.fixture
def own_server(root: Path) -> Iterator[LiveServer]:
    """A server of this test alone, over an empty pipelines directory."""
    with serving(root) as server:
        yield server


@pytest.fixture
def server(own_server: LiveServer) -> LiveServer:
    """``own_server``, but where a module has another one."""
    return own_server


@pytest.fixture(scope="session")
def server_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """What ``shared_server`` is, without the clean-up after each test."""
    with serving(tmp_path_factory.mktemp("pipelines"), removal_grace_ms=0) as running:
        server = SharedServer(running.app, running.root, running.url)
        with server.client:
            yield server


@pytest.fixture
def shared_server(server_of_all: SharedServer) -> Iterator[SharedServer]:
    """A server that runs already, and serves nothing but perhaps "it" of another test: for contracts of HTTP.

    Where nearly all tests of a module do with it, the module has a fixture ``server`` that is this one.
    """
    yield server_of_all
    server_of_all.clear()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines that are logged during the test, of every level."""
    with logged_lines("TRACE") as lines:
        yield lines
