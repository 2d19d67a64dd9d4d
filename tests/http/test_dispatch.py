"""Deploys under load: no request fails, none is answered by what was replaced before it came."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from tests.live_server import ECHO, LiveServer, eventually

VERSIONED = """
import time
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, stream: bool = False):
        return self.words() if stream else VERSION

    async def run_chat_completion_async(self, model, messages, body):
        yield str(VERSION)

    def words(self):
        for _ in range(3):
            yield f"{VERSION} "
            time.sleep(0.001)
"""


class Hammer:
    """Clients that ask again and again, and note what does not fit."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lowest = 0  # no answer to a request sent from now on may be older
        self.asked = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()

    def ask(
        self, request: Callable[[httpx.Client], httpx.Response], read: Callable[[httpx.Response], set[int]]
    ) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.is_set():
                lowest = self.lowest
                try:
                    response = request(client)
                    versions = read(response)
                    fits = response.status_code == 200 and len(versions) == 1 and min(versions) >= lowest
                    told = f"{response.status_code} {response.text[:200]} after {lowest}"
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    fits, told = False, repr(error)
                self.asked += 1
                if not fits:
                    self.wrong.append(told)

    def stop(self) -> None:
        self._stop.set()


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def chat(client: httpx.Client) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}]}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.slow
def test_a_hundred_overwrites_lose_no_request(own_server: LiveServer):
    """A hundred overwrites and other folders coming and going lose no request."""
    own_server.serve("chat", VERSIONED, version=0)
    hammer = Hammer(own_server.url)
    asks: list[tuple[Callable[..., httpx.Response], Callable[..., set[int]]]] = [
        (lambda client: client.post("/chat/run", json={}), lambda response: {response.json()["result"]}),
        (
            lambda client: client.post("/chat/run", json={"stream": True}),
            lambda response: {int(word) for word in response.text.split()},
        ),
        (chat, lambda response: {int(response.json()["choices"][0]["message"]["content"])}),
    ]
    with ThreadPoolExecutor(len(asks)) as pool:
        clients = [pool.submit(hammer.ask, *ask) for ask in asks]
        try:
            for version in range(1, 101):
                own_server.write("chat", VERSIONED, version=version)
                if version % 4 == 1:
                    own_server.write(f"other{version % 12}", answer="")
                elif version % 4 == 3 and (own_server.root / f"other{(version - 2) % 12}").exists():
                    own_server.remove(f"other{(version - 2) % 12}")
                own_server.eventually(lambda version=version: own_server.run("chat") == version)  # type: ignore[misc]
                hammer.lowest = version
        finally:
            hammer.stop()
        for client in clients:
            client.result()

    assert hammer.wrong == []
    assert hammer.asked > 100


WAITS = """
import asyncio, time
from pathlib import Path
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self, began: str, gate: str, stream: bool = False):
        return self.wait(began, gate) if stream else list(self.wait(began, gate))[-1]

    def wait(self, began, gate):
        yield ANSWER
        Path(began).touch()
        while not Path(gate).exists():
            time.sleep(0.005)
        yield ANSWER

    async def run_chat_completion_async(self, model, messages, body):
        yield ANSWER
        Path(body["began"]).touch()
        while not Path(body["gate"]).exists():
            await asyncio.sleep(0.005)
        yield ANSWER
"""


@pytest.mark.parametrize("kind", ["run", "stream", "chat", "chat stream"])
def test_a_request_ends_on_the_revision_that_it_began_on(server: LiveServer, tmp_path: Path, kind: str):
    began, gate = tmp_path / "began", tmp_path / "gate"
    server.serve("slow", WAITS, answer="old")
    old = server.state("slow")["revision"]
    body = {"began": str(began), "gate": str(gate), "stream": "stream" in kind}
    if "chat" in kind:
        body |= {"messages": [{"role": "user", "content": "x"}]}
    with server.in_background("/slow/chat" if "chat" in kind else "/slow/run", body) as request:
        eventually(began.exists)
        server.serve("slow", WAITS, answer="new")
        server.serve("slow", WAITS, answer="newer")
        gate.touch()
        response = request.result()

    assert response.headers["X-Hayhooks-Revision"] == old
    assert "old" in response.text
    assert "new" not in response.text
    answer = server.client.post("/slow/run", json={"began": str(began), "gate": str(gate)})
    assert answer.json() == {"result": "newer"}
    assert answer.headers["X-Hayhooks-Revision"] == server.state("slow")["revision"]


def test_slow_body_is_answered_by_the_live_revision(server: LiveServer):
    """A body that comes slowly is answered by what serves when it is there."""
    server.serve("chat", answer="old")
    go_on = threading.Event()

    def body():
        yield b'{"model": "chat", '
        go_on.wait(60)
        yield b'"messages": [{"role": "user", "content": "x"}]}'

    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(httpx.post, server.url + "/v1/chat/completions", content=body(), timeout=30)
        server.serve("chat", answer="new")
        assert server.app.reconciler is not None
        retirement = server.app.reconciler.retirement
        eventually(lambda: retirement.pending == 0)
        go_on.set()

        assert request.result().json()["choices"][0]["message"]["content"] == "new"


def test_an_unknown_pipeline_is_named_and_a_likely_one_suggested(server: LiveServer):
    server.serve("weather", answer="")

    response = server.client.post("/wether/run", json={})

    assert response.status_code == 404
    assert response.json() == {"detail": "there is no pipeline 'wether'; did you mean 'weather'?"}


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1", "/models/a/b", "/chat"])
def test_a_path_among_the_servers_own_is_no_unknown_pipeline(server: LiveServer, path: str):
    response = server.client.get(path)

    assert response.status_code == 404
    assert response.json()["detail"] == f"nothing is served at {path}; /status lists what is, /docs shows it"


def test_an_unknown_endpoint_of_a_pipeline_names_those_that_exist(server: LiveServer):
    server.serve("weather", answer="")

    response = server.client.get("/weather/forecast")

    assert response.status_code == 404
    assert response.json() == {
        "detail": "'weather' has no endpoint /forecast; it has /weather/run, /weather/chat, /weather/responses, "
        "/weather/a2a"
    }


def test_another_method_is_405_and_says_which(server: LiveServer):
    server.serve("weather", answer="")

    response = server.client.get("/weather/run")

    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("name", ["status", "v1", "models", "docs", "healthz", "metrics"])
def test_a_folder_named_like_a_route_is_a_failure_and_shadows_nothing(server: LiveServer, name: str):
    server.write(name, answer="")
    server.eventually(lambda: server.state(name)["state"] == "failed")

    assert "belongs to a route" in server.state(name)["error"]
    assert server.client.get("/status").json()["status"] == "Up!"


def test_a_pipeline_may_be_called_chat_beside_the_path_of_that_name(server: LiveServer):
    server.serve("chat", answer="here")

    assert server.run("chat") == "here"
    assert chat(server.client).json()["choices"][0]["message"]["content"] == "here"
    assert server.client.post("/chat/completions", content=b"x").status_code == 400


def test_dispatch_is_constant_time(own_server: LiveServer, monkeypatch):
    """Dispatch looks at as many routes with a hundred deployments as with one."""
    counted: list[str] = []
    matches = Route.matches

    def count_and_match(route, scope):
        counted.append(route.path)
        return matches(route, scope)

    monkeypatch.setattr(Route, "matches", count_and_match)

    def count(name: str) -> int:
        counted.clear()
        assert own_server.run(name) == ""
        return len(counted)

    own_server.serve("first", answer="")
    one = count("first")
    for number in range(99):
        own_server.write(f"other{number}", answer="")
    own_server.eventually(lambda: len(own_server.status()["pipelines"]) == 100)

    assert count("other98") == one


def test_an_event_loop_that_is_blocked_stops_no_load(server: LiveServer):
    blocking = ECHO.replace("def run_api(self", "async def run_api_async(self").replace(
        "return ANSWER + text", "import time; time.sleep(0.5); return 'blocked'"
    )
    server.serve("blocks", blocking, answer="")
    assert server.app.reconciler is not None
    with server.in_background("/blocks/run", {}) as request:
        server.write("other", answer="")
        reconciler = server.app.reconciler
        eventually(lambda: "other" in reconciler.snapshot.deployments)
        assert request.result().json() == {"result": "blocked"}
    server.eventually(lambda: server.run("other") == "")


@pytest.mark.slow
def test_many_requests_at_once_are_all_answered(own_server: LiveServer):
    own_server.serve("echo", answer="")

    async def ask() -> list[httpx.Response]:
        connections = asyncio.Semaphore(50)  # httpx looks at all that wait for one, again and again
        async with httpx.AsyncClient(base_url=own_server.url, timeout=30) as client:

            async def post(number: int) -> httpx.Response:
                async with connections:
                    return await client.post("/echo/run", json={"text": str(number)})

            return await asyncio.gather(*(post(number) for number in range(500)))

    began = time.monotonic()
    answers = asyncio.run(ask())
    assert [answer.json()["result"] for answer in answers] == [str(n) for n in range(500)]
    assert time.monotonic() - began < 60
