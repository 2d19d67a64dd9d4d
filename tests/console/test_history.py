"""``/status/{name}/revisions``: what became of the last revisions."""

from functools import partial
from typing import Any

import httpx

from tests.live_server import LiveServer, eventually

BROKEN = "raise KeyError('no key')\n"


def revisions(server: LiveServer, name: str) -> Any:
    answer = httpx.get(f"{server.url}/status/{name}/revisions")
    assert answer.status_code == 200, answer.text
    return answer.json()["revisions"]


def outcomes(server: LiveServer, name: str) -> list[str]:
    return [each["outcome"] for each in revisions(server, name)]


def test_the_changes_of_a_name_are_listed_the_newest_first(server: LiveServer):
    server.serve("echo")
    server.write("echo", BROKEN)
    eventually(lambda: outcomes(server, "echo") == ["failed", "deployed"])
    server.write("echo")
    eventually(lambda: outcomes(server, "echo") == ["restored", "failed", "deployed"])
    server.remove("echo")
    eventually(lambda: outcomes(server, "echo")[0] == "undeployed")

    undeployed, restored, failed, deployed = revisions(server, "echo")
    assert undeployed["revision"] is None
    assert restored["revision"] == deployed["revision"] != failed["revision"]
    assert (failed["files"], failed["error"]) == (["pipeline_wrapper.py"], "KeyError: 'no key'")
    assert deployed["at"] < failed["at"] < restored["at"] < undeployed["at"]


def test_it_is_bounded(server: LiveServer):
    server.serve("echo")
    history = server.app.state.history
    for change in range(50):
        server.write("echo", f"raise KeyError({change})\n")
        error = f"KeyError: {change}"
        eventually(partial(lambda error: history.of("echo")[0]["error"] == error, error))

    assert len(revisions(server, "echo")) == 20


def test_an_unknown_name_is_not_found(server: LiveServer):
    server.serve("echo")
    answer = httpx.get(f"{server.url}/status/eho/revisions")

    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no pipeline 'eho'; did you mean 'echo'?")


def test_the_state_of_a_failed_name_has_its_source_as_it_was(server: LiveServer):
    server.write("echo", "import os\n\nos.nothing\nx = 1\n")
    eventually(lambda: server.state("echo")["state"] == "failed")
    failure = server.client.get("/status/echo").json()["failure"]

    assert failure["reason"].startswith("AttributeError: module 'os' has no attribute 'nothing'")
    assert failure["place"]["line"] == 3
    assert failure["place"]["source"] == [[1, "import os"], [2, ""], [3, "os.nothing"], [4, "x = 1"]]
    assert "Traceback" in failure["traceback"]
    assert server.state("echo")["failure"] == failure  # in the list of all too
