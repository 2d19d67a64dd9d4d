"""Fixtures for the attacks."""

from collections.abc import Iterator

import pytest

from tests.attacks.measuring import Attacked
from tests.cli.conftest import port
from tests.cli.processes import started
from tests.live_server import eventually
from tests.wrappers import source

__all__ = ["attacked", "attacked_by_all", "port"]


@pytest.fixture(scope="session")
def attacked_by_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """A server in a process of its own, whose memory and event loop can be measured."""
    folder = tmp_path_factory.mktemp("attacked")
    wrapper = folder / "pipelines/it/pipeline_wrapper.py"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(source("attacked"))
    (folder / "pipelines/upload").mkdir()
    (folder / "pipelines/upload/pipeline_wrapper.py").write_text(source("attacked_files"))
    with started(folder, "run", LOG="WARNING", MAX_BODY_SIZE="32MiB") as process:
        attacked = Attacked(process, folder / "pipelines")
        with attacked.client:
            eventually(lambda: len(attacked.client.get("/status").json()["pipelines"]) == 2)
            yield attacked


@pytest.fixture
def attacked(attacked_by_all: Attacked) -> Attacked:
    """``attacked_by_all``, which serves whatever an attack has done."""
    assert attacked_by_all.client.get("/healthz").status_code == 200
    return attacked_by_all
