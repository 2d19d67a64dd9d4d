"""A server with the deployment under test, a bystander, and traffic on both."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.traffic import BYSTANDER, Traffic, write
from tests.live_server import LiveServer, serving


@pytest.fixture
def own_server(root: Path) -> Iterator[LiveServer]:
    """A server of this test alone, which gives a writer on a busy machine the time to write all files of a version."""
    with serving(root, debounce_ms=100) as server:
        yield server


@pytest.fixture
def traffic(server: LiveServer) -> Iterator[Traffic]:
    """Requests that flow all the time, once version 10 of ``app`` is served; checked in the end."""
    write(server.root / "app", 10)
    server.serve("bystander", BYSTANDER)
    server.eventually(lambda: server.run("app") == [10, 10, 10])
    with Traffic(server).flowing() as traffic:
        traffic.serves(10)
        yield traffic
