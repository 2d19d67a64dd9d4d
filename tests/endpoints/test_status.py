import shutil
import time
from pathlib import Path

import pytest

from tests.live_server import ECHO, LiveServer, serving


def test_all_is_told_of_what_serves(server: LiveServer):
    server.serve(
        "echo", ECHO.replace("(BasePipelineWrapper):", '(BasePipelineWrapper):\n    """Says it."""\n'), answer=""
    )
    status = server.status()
    (entry,) = status["deployments"]

    assert (status["status"], status["pipelines"], status["ready"], status["error"]) == ("Up!", ["echo"], True, None)
    assert entry["name"] == "echo"
    assert entry["state"] == "serving"
    assert len(entry["revision"]) == 12
    assert abs(entry["loaded_at"] - time.time()) < 60
    assert entry["load_ms"] >= 0
    assert entry["endpoints"] == ["/echo/run", "/echo/chat", "/echo/responses"]
    assert entry["description"] == "Says it."
    assert entry["error"] is None


def test_generation_and_revision_of_status(server: LiveServer):
    """The generation counts changes and the revision tells what is served."""
    empty = server.status()
    server.serve("echo", answer="1")
    first = server.status()
    server.serve("echo", answer="2")
    second = server.status()
    server.serve("echo", answer="1")
    again = server.status()

    assert [status["generation"] for status in (empty, first, second, again)] == [0, 1, 2, 3]
    assert first["revision"] == again["revision"] != second["revision"]


def test_one_deployment_tells_by_its_status_whether_it_serves(server: LiveServer):
    server.serve("good", answer="")
    server.write("bad", "import nothing_of_this_name")
    server.eventually(lambda: server.state("bad")["state"] == "failed")

    good, bad, none = (server.client.get(f"/status/{name}") for name in ("good", "bad", "none"))
    assert (good.status_code, good.json()["pipeline"], good.json()["status"]) == (200, "good", "Up!")
    assert bad.status_code == 503
    assert "nothing_of_this_name" in bad.json()["error"]
    assert none.status_code == 404
    assert "none" in none.json()["detail"]


def test_a_stale_deployment_says_why_and_which_revision_failed(server: LiveServer):
    server.serve("echo", answer="")
    serving_revision = server.state("echo")["revision"]
    server.write("echo", "raise ValueError('broken')")
    entry = server.eventually(lambda: (found := server.state("echo"))["state"] == "stale" and found)

    assert entry["revision"] == serving_revision != entry["failed_revision"]
    assert abs(entry["failed_at"] - time.time()) < 60


def test_health_and_readiness(server: LiveServer):
    assert server.client.get("/healthz").json() == {"status": "ok"}
    server.eventually(lambda: server.client.get("/readyz").json() == {"status": "ready"})


def test_models_are_those_that_can_chat_and_as_old_as_their_revision(server: LiveServer):
    server.serve("chats", answer="")
    server.serve("runs", ECHO.replace("def run_chat_completion", "def other"), answer="")

    for prefix in ("", "/v1"):
        (model,) = server.client.get(f"{prefix}/models").json()["data"]
        assert (model["id"], model["object"], model["owned_by"]) == ("chats", "model", "hayhooks")
        assert model["created"] == int(server.state("chats")["loaded_at"])
        assert server.client.get(f"{prefix}/models/chats").json() == model
        missing = server.client.get(f"{prefix}/models/runs")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
    assert server.client.head("/v1/models").status_code == 200


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_root_that_cannot_be_read_is_not_ready_and_says_why(tmp_path, kind):
    root = tmp_path / "pipelines"
    if kind == "file":
        root.touch()
    with serving(root, poll_interval_ms=100) as server:
        server.eventually(lambda: str(root) in server.client.get("/readyz").json().get("detail", ""))
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/healthz").status_code == 200
        assert server.client.post("/any/run", json={}).status_code == 404


def test_status_tells_directory_and_last_revision(server: LiveServer, root: Path):
    """The status tells which directory is served and what was last found there under a name."""
    server.serve("echo", answer="1")
    directory, serving_revision = server.status()["directory"], server.state("echo")["revision"]
    assert directory == {"path": str(root), "device": root.stat().st_dev, "inode": root.stat().st_ino}

    (root / "echo").rename(root / ".old")
    shutil.copytree(root / ".old", root / "echo")
    file = (root / "echo/pipeline_wrapper.py").stat()
    found = {"revision": serving_revision, "device": file.st_dev, "inode": file.st_ino, "ctime_ns": file.st_ctime_ns}
    server.eventually(lambda: server.client.get("/status/echo").json()["found"] == found)
    assert server.status()["generation"] == 1  # it is another folder with the same in it

    server.write("echo", "raise ValueError('broken')")
    server.eventually(lambda: server.state("echo")["state"] == "stale")
    told = server.client.get("/status/echo").json()
    assert told["found"]["revision"] == told["failed_revision"] != serving_revision

    root.rename(root.with_name("away"))
    server.eventually(lambda: server.status()["directory"] is None)
