import json
import re
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import httpx
import pytest

from hayhooks import Settings, SSEEvent, create_app
from tests.live_server import LiveServer, eventually, serving
from tests.logs import logged
from tests.openai.apis import go_away, leases

HEAD = """
from dataclasses import dataclass
from typing import Any, Optional

from haystack.dataclasses import ChatMessage, Document
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from hayhooks import BasePipelineWrapper, SSEStream


class Model(BaseModel):
    number: int


@dataclass
class Point:
    x: int
    y: int = 0


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    DEF
"""


def method(definition: str) -> str:
    return HEAD.replace("DEF", definition.replace("\n", "\n    "))


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    return shared_server


def post(server: LiveServer, definition: str, head: str = "", **arguments: Any) -> Any:
    server.serve("it", head + method(definition))
    return server.client.post("/it/run", json=arguments)


def events(lines: Iterable[str]) -> Iterator[str]:
    """The data of the server-sent events in *lines*; a line that is no field is lost."""
    data: list[str] = []
    for line in lines:
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []


@pytest.mark.parametrize(
    ("definition", "arguments", "result"),
    [
        ("def run_api(self, x: Model): return [type(x).__name__, x.number]", {"x": {"number": "3"}}, ["Model", 3]),
        ("def run_api(self, x: Point): return [type(x).__name__, x.x, x.y]", {"x": {"x": 1}}, ["Point", 1, 0]),
        ("def run_api(self, x: list[Point]): return sum(p.x for p in x)", {"x": [{"x": 1}, {"x": 2}]}, 3),
        ("def run_api(self, x: Document): return x.content", {"x": {"content": "a"}}, "a"),
        ("def run_api(self, x: ChatMessage): return x.text", {"x": {"role": "user", "content": "hi"}}, "hi"),
        ("def run_api(self, x: list[ChatMessage]): return x[0].text", {"x": [{"role": "user", "content": "hi"}]}, "hi"),
        ("def run_api(self, x: ChatMessage | None = None): return x and x.text", {}, None),
        (
            "def run_api(self, x: ChatMessage): return x.role.value",
            {"x": {"role": "assistant", "content": [{"text": "hi"}]}},
            "assistant",
        ),
        ("def run_api(self, x): return x", {"x": {"any": [1, None, "json"]}}, {"any": [1, None, "json"]}),
        ("def run_api(self, x: list[dict]): return x", {"x": [{"a": 1}]}, [{"a": 1}]),
        ("def run_api(self, a: int, **kwargs): return kwargs", {"a": 1, "b": 2, "c": [3]}, {"b": 2, "c": [3]}),
        ("def run_api(self, a: int = 7): return a", {}, 7),
        ("def run_api(self, a: int = 7): return a", {"unknown": 1}, 7),
        ("def run_api(self, schema: int, copy: int, json: int, _x: int): return schema + copy + json + _x",
         {"schema": 1, "copy": 2, "json": 3, "_x": 4}, 10),
        ("def run_api(self) -> str: return ChatMessage.from_assistant('text')", {}, "text"),
        ("def run_api(self) -> Model: return Model(number=1)", {}, {"number": 1}),
        ("def run_api(self) -> list[Point]: return [Point(1)]", {}, [{"x": 1, "y": 0}]),
        ("def run_api(self) -> Model: return {'number': 1}", {}, {"number": 1}),
        ("def run_api(self) -> int: return '5'", {}, 5),
        ("def run_api(self) -> int | None: return None", {}, None),
        ("def run_api(self) -> list[float]: import numpy; return numpy.arange(2)", {}, [0, 1]),
        ("def run_api(self): return {'replies': [ChatMessage.from_user('hi')]}", {},
         {"replies": [{"role": "user", "meta": {}, "name": None, "content": [{"text": "hi"}]}]}),
        ("def run_api(self): import numpy; return [numpy.float64(1.5), numpy.arange(2)]", {}, [1.5, [0, 1]]),
        ("async def run_api_async(self, a: int): return a + 1", {"a": 1}, 2),
        ("def run_api(self): return 1\nasync def run_api_async(self): return 2", {}, 2),
        ("def run_api(self, headers: Headers | None = None): return headers['x-mine'] if headers else 0", {}, "yes"),
    ],
)  # fmt: skip
def test_arguments_and_results_are_what_the_annotations_say(server: LiveServer, definition, arguments, result):
    server.serve("it", method(definition))
    response = server.client.post("/it/run", json=arguments, headers={"x-mine": "yes"})

    assert response.json() == {"result": result}


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ("def run_api(self) -> int: return 'five'", "returned a str, which its annotation `-> int` does not allow"),
        (
            "def run_api(self) -> int: return None",
            "returned None (forgot return?), which its annotation `-> int` does not allow",
        ),
        ("def run_api(self) -> str: return {'replies': []}", "returned a dict, which its annotation `-> str`"),
        (
            "def run_api(self) -> list[int]: return [1, 'two']",
            "does not allow: result[1]: Input should be",
        ),
        ("def run_api(self) -> Model: return {'number': 'x'}", "does not allow: result.number: Input should be"),
        (
            "def run_api(self) -> 'int': return object()",
            "as JSON: result: an object (it has no to_dict)",
        ),
        ("async def run_api_async(self) -> bool: return 'perhaps'", "run_api_async() returned a str"),
    ],
)
def test_a_result_that_contradicts_its_annotation_is_a_500(server: LiveServer, definition: str, told: str):
    server.serve("it", method(definition))
    response = server.client.post("/it/run", json={})

    assert response.status_code == 500
    assert response.json()["detail"].startswith("Pipeline execution failed: ")
    assert told in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "kind", "loc"),
    [
        (b'{"number": "many"}', "int_parsing", ["body", "number"]),
        (b"{}", "missing", ["body", "number"]),
        (b"", "missing", ["body", "number"]),
        (b'{"number": ', "json_invalid", ["body"]),
        (b"[1]", "dict_type", ["body"]),
        (b"\xff", "json_invalid", ["body"]),
        (b"[" * 10_000, "json_invalid", ["body"]),
    ],
)
def test_what_does_not_fit_is_422_with_pydantics_details(server: LiveServer, content: bytes, kind: str, loc: list[str]):
    server.serve("it", method("def run_api(self, number: int): return number"))
    response = server.client.post("/it/run", content=content)

    assert response.status_code == 422
    (detail,) = response.json()["detail"]
    assert (detail["type"], detail["loc"]) == (kind, loc)
    assert detail["msg"]


RAISING = {
    "an exception": "raise ValueError('it broke')",
    "SystemExit": "raise SystemExit('it broke')",
    "KeyboardInterrupt": "raise KeyboardInterrupt('it broke')",
    "StopIteration": "raise StopIteration('it broke')",
    "BaseException": "raise BaseException('it broke')",
    "CancelledError": "import asyncio; raise asyncio.CancelledError('it broke')",
    "GeneratorExit": "raise GeneratorExit('it broke')",
}


@pytest.mark.parametrize("kind", RAISING)
@pytest.mark.parametrize("define", ["def run_api(self)", "async def run_api_async(self)"])
def test_whatever_a_pipeline_raises_is_500(server: LiveServer, kind: str, define: str):
    """Whatever a pipeline raises is 500 with its message and no traceback."""
    response = post(server, f"{define}: {RAISING[kind]}")

    assert response.status_code == 500
    assert set(response.json()) == {"detail"}
    name = "ValueError" if kind == "an exception" else kind
    expected = f"{name}: it broke"
    if kind == "StopIteration" and "async" in define:  # of that Python itself makes another error
        expected = "RuntimeError: coroutine raised StopIteration"
    if kind != "CancelledError" or "async" not in define:  # which takes the message away
        assert response.json()["detail"] == f"Pipeline execution failed: {expected}"


@pytest.mark.parametrize(
    ("run", "headline"),
    [
        ("return {}['boost']", "KeyError: 'boost'"),
        ("raise ValueError", "ValueError"),
        ("assert False", "AssertionError"),
        (
            "raise ExceptionGroup('two', [KeyError('boost'), ValueError()])",
            "ExceptionGroup: two (2 sub-exceptions): KeyError: 'boost'",
        ),
        ("yield 1 / 0", "ZeroDivisionError: division by zero"),
        ("class MyError(Exception): pass\n        raise MyError('mine')", "MyError: mine"),
    ],
)
def test_an_exception_keeps_its_type(server: LiveServer, logged: list[str], run: str, headline: str):
    response = post(server, f"def run_api(self):\n        {run}")

    assert response.json() == {"detail": f"Pipeline execution failed: {headline}"}
    assert [line for line in logged if line.startswith(f"ERROR /it/run failed: {headline}")]
    server.serve("it", method("def run_api(self): return 'alive'"))
    assert server.run("it") == "alive"


def test_a_traceback_is_told_where_it_is_asked_for(root):
    with serving(root, show_tracebacks=True) as server:
        response = post(server, "def run_api(self): raise ValueError('it broke')")

    assert "pipeline_wrapper.py" in response.json()["traceback"]
    assert "ValueError: it broke" in response.json()["traceback"]


@pytest.mark.parametrize("body", ["{'text': 'hi'}", "{text: 'hi'}"])
def test_a_body_in_other_quotes_is_told_which_json_needs(server: LiveServer, body: str):
    server.serve("it", method("def run_api(self, text: str): return text"))
    response = server.client.post("/it/run", content=body)

    assert response.status_code == 422
    assert response.json()["detail"][0]["msg"] == "Invalid JSON: names and texts need double quotes"


def test_a_result_that_is_no_json_is_a_clear_500(server: LiveServer):
    response = post(server, "def run_api(self): return {'socket': __import__('socket').socket}")

    assert response.status_code == 500
    assert "result.socket: the class socket" in response.json()["detail"]
    assert "JSON" in response.json()["detail"]


def test_starlettes_exceptions_and_responses_pass_through(server: LiveServer):
    raised = post(server, "def run_api(self): raise HTTPException(418, 'teapot', headers={'X-Tea': 'yes'})")
    assert (raised.status_code, raised.json(), raised.headers["X-Tea"]) == (418, {"detail": "teapot"}, "yes")

    returned = post(server, "async def run_api_async(self): return PlainTextResponse('as it is', 202)")
    assert (returned.status_code, returned.text) == (202, "as it is")


@pytest.mark.parametrize(
    "definition",
    [
        "def run_api(self):\n    yield 'a'\n    yield 'b'",
        "def run_api(self): return (c for c in 'ab')",
        "async def run_api_async(self):\n    yield 'a'\n    yield 'b'",
        "async def run_api_async(self): return (c for c in 'ab')",
        "def run_api(self): return self.words()\nasync def words(self):\n    yield 'a'\n    yield 'b'",
    ],
)
def test_generators_stream_as_text(server: LiveServer, definition: str):
    response = post(server, definition)

    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == "ab"


@pytest.mark.parametrize("define", ["def words(self)", "async def words(self)"])
def test_an_sse_stream_is_sent_as_events(server: LiveServer, define: str):
    words = f"{define}:\n    yield 'a'\n    yield 'two\\nlines'\n    yield {{'x': 1}}"
    response = post(server, f"def run_api(self): return SSEStream(self.words())\n{words}")

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text == 'data: a\n\ndata: two\ndata: lines\n\ndata: {"x":1}\n\n'


LINE_ENDS = ["\r\n", "\r", "\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


def test_an_event_of_a_stream_may_have_fields_of_its_own(server: LiveServer):
    items = (
        "SSEEvent('a', event='word', id=1, retry=500), SSEEvent({'b': 1}, id='2'), SSEEvent('c\\nd', event='é'), "
        "SSEEvent(event='done')"
    )
    head = "from hayhooks import SSEEvent\n"
    response = post(server, f"def run_api(self): return SSEStream(x for x in [{items}])", head)

    assert response.text == (
        "event: word\nid: 1\nretry: 500\ndata: a\n\n"
        'id: 2\ndata: {"b":1}\n\n'
        "event: é\ndata: c\ndata: d\n\n"
        "event: done\ndata: \n\n"
    )
    assert post(server, f"def run_api(self): yield from [{items}]", head).text == 'a{"b":1}c\nd'


@pytest.mark.parametrize(
    "fields",
    [{"event": "a\nb"}, {"event": 1}, {"id": "a\0"}, {"id": "a\u2028"}, {"retry": -1}, {"retry": "1"}, {"retry": True}],
)
def test_a_field_that_an_event_cannot_have_is_an_error(fields: dict[str, Any]):
    with pytest.raises(ValueError, match=f"SSEEvent: {next(iter(fields))} must be"):
        SSEEvent("data", **fields)


def ask_for_stream(server: LiveServer, definition: str, query: str = "?stream=true", **options: Any) -> httpx.Response:
    server.serve("it", method(definition))
    return server.client.post(f"/it/run{query}", json={}, **options)


@pytest.mark.parametrize(
    "definition",
    [
        "def run_api(self):\n    yield from 'ab'",
        "def run_api(self) -> str: return 'ab'",
        "async def run_api_async(self): return 'ab'",
        "def run_api(self) -> str: return ChatMessage.from_assistant('ab')",
        "def run_api(self): return ChatMessage.from_assistant('ab')",
    ],
)
def test_text_is_streamed_where_a_stream_is_asked_for(server: LiveServer, definition: str):
    response = ask_for_stream(server, definition)
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.text == "ab"

    events = server.client.post("/it/run?stream=1", json={}, headers={"Accept": "text/event-stream"})
    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.text in ("data: ab\n\n", "data: a\n\ndata: b\n\n")


def test_what_is_a_stream_or_a_response_of_its_own_stays_so(server: LiveServer):
    events = ask_for_stream(server, "def run_api(self): return SSEStream(x for x in 'ab')")
    assert events.text == "data: a\n\ndata: b\n\n"
    assert ask_for_stream(server, "def run_api(self): return PlainTextResponse('mine', 202)").status_code == 202


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        ("def run_api(self) -> dict: raise RuntimeError", "it has no stream: its result is whole"),
        ("def run_api(self): return {'a': 1}", "it has no stream: run_api() returned a dict"),
        ("async def run_api_async(self): return None", "it has no stream: run_api_async() returned a NoneType"),
    ],
)
def test_what_cannot_be_streamed_is_a_400_that_says_why(server: LiveServer, definition: str, told: str):
    response = ask_for_stream(server, definition)
    assert (response.status_code, response.json()["detail"]) == (400, f"{told}. Ask without ?stream=true")


@pytest.mark.parametrize("query", ["?stream=false", "?stream=0", "?other=true", "?stream=False"])
def test_without_a_stream_the_answer_is_whole(server: LiveServer, query: str):
    assert ask_for_stream(server, "def run_api(self): return 'ab'", query).json() == {"result": "ab"}


def test_a_switch_that_is_none_is_a_400(server: LiveServer):
    response = ask_for_stream(server, "def run_api(self): return 'ab'", "?stream=maybe")
    assert response.status_code == 400
    assert response.json()["detail"] == "The parameter stream must be true or false, not 'maybe'"


def test_a_form_is_answered_with_a_stream_too(server: LiveServer):
    server.serve("it", method("def run_api(self, files: list) -> str: return files[0].filename"))
    assert server.client.post("/it/run?stream=true", files={"files": ("a.txt", b"a")}).text == "a.txt"


@pytest.mark.parametrize("end", LINE_ENDS, ids=ascii)
def test_an_event_is_whole_for_clients_of_any_idea_of_a_line(server: LiveServer, end: str):
    """Some clients split by the standard, others as Python's ``splitlines``: httpx, requests."""
    response = post(server, f"def run_api(self): return SSEStream(x for x in [{'a' + end + 'b'!r}, {'c' + end!r}])")

    assert list(events(re.split(r"\r\n|\r|\n", response.text))) == ["a\nb", "c\n"]
    assert list(events(response.text.splitlines())) == ["a\nb", "c\n"]
    assert "\r" not in response.text


def test_json_in_an_event_stays_json(server: LiveServer):
    """A line separator within JSON is escaped: a line end would break it."""
    text = json.dumps({"x": "a\u2028b\x85c", "y": "é"}, ensure_ascii=False)
    response = post(server, f"def run_api(self): return SSEStream(x for x in [{text!r}])")

    for lines in (response.text.split("\n"), response.text.splitlines()):
        (data,) = events(lines)
        assert json.loads(data) == json.loads(text)


STREAMED = """(x for x in [
        "a", None, "", create_status_event("Searching"), StreamingChunk("b"), StreamingChunk(""),
        StreamingChunk("", reasoning=ReasoningContent("hm"), index=0, start=True),
        StreamingChunk("", tool_calls=[ToolCallDelta(index=0, tool_name="add", arguments="{}")], index=0, start=True),
        b"", {"x": None}, {"type": "row", "data": {}}, "c",
    ])"""
STREAM_HEAD = """
from haystack.dataclasses import ReasoningContent, StreamingChunk, ToolCallDelta
from hayhooks.toolkit.events import create_status_event
"""


@pytest.mark.parametrize("form", ["def run_api(self): return {0}", "async def run_api_async(self): return {0}"])
def test_a_text_stream_is_text_alone(server: LiveServer, form: str):
    """UI events, None, reasoning and tool calls are no text; a dict of the wrapper's own is sent as JSON."""
    response = post(server, form.replace("{0}", STREAMED), head=STREAM_HEAD)

    assert response.text == 'ab{"x":null}{"type":"row","data":{}}c'


def test_an_sse_stream_has_no_empty_event(server: LiveServer):
    response = post(server, f"def run_api(self): return SSEStream({STREAMED})", head=STREAM_HEAD)

    assert list(events(response.text.split("\n"))) == ["a", "b", '{"x":null}', '{"type":"row","data":{}}', "c"]


def test_a_stream_that_raises_at_once_is_500_and_later_is_cut(server: LiveServer):
    assert post(server, "def run_api(self):\n    raise ValueError('early')\n    yield").status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        post(server, "def run_api(self):\n    yield 'a'\n    raise ValueError('late')")


caller = ContextVar("caller", default="nobody")  # wrappers import it from here


def test_context_variables_reach_both_kinds_of_methods(root):
    app = create_app(Settings(pipelines_dir=root))

    class SetCaller:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            caller.set("me")
            await self.app(scope, receive, send)

    app.add_middleware(SetCaller)
    with serving(root, app) as server:
        for define in ("def run_api(self)", "async def run_api_async(self)"):
            read = "from tests.endpoints.test_run import caller; return caller.get()"
            assert post(server, f"{define}: {read}").json() == {"result": "me"}


def test_a_slow_pipeline_starves_neither_others_nor_the_status(root, tmp_path):
    gate = tmp_path / "gate"
    slow = "def run_api(self):\n    import os, time\n    while not os.path.exists(GATE): time.sleep(0.01)\n    return 1"
    with serving(root, threads=2) as server:
        server.serve("slow", method(slow), gate=str(gate))
        server.serve("quick", method("def run_api(self): return 'at once'"))
        with (
            server.in_background("/slow/run", {}) as one,
            server.in_background("/slow/run", {}) as two,
            server.in_background("/slow/run", {}) as three,
        ):
            for _ in range(5):
                assert server.run("quick") == "at once"
                assert server.status()["status"] == "Up!"
            gate.touch()
            assert [request.result().json() for request in (one, two, three)] == [{"result": 1}] * 3


ENDLESS = """def run_api(self):
    import time
    from pathlib import Path
    try:
        while True:
            yield "x"
            time.sleep(0.01)
    finally:
        Path(CLOSED).touch()
"""

MUCH = """def run_api(self):
    from pathlib import Path
    for number in range(100_000):
        Path(COUNT).write_text(str(number))
        yield "x" * 100_000
"""


def test_a_reader_that_goes_away_ends_a_sync_generator_at_its_next_item(server: LiveServer, tmp_path):
    closed = tmp_path / "closed"
    server.serve("it", method(ENDLESS), closed=str(closed))
    with server.client.stream("POST", "/it/run", json={}) as response:
        next(response.iter_bytes())
    eventually(closed.exists)


@pytest.mark.parametrize(
    "definition",
    [
        "async def run_api_async(self):\n    try:\n        Path(CLOSED + '.began').touch()"
        "\n        await asyncio.sleep(60)",
        "async def run_api_async(self):\n    try:\n        Path(CLOSED + '.began').touch()\n        while True:"
        "\n            yield 'x'\n            await asyncio.sleep(0.01)",
        "def run_api(self):\n    try:\n        Path(CLOSED + '.began').touch()\n        while True:"
        "\n            yield 'x'",
        "def run_api(self): return SSEStream(self.words())\n\ndef words(self):\n    try:"
        "\n        Path(CLOSED + '.began').touch()\n        while True:\n            yield 'x'",
    ],
)
def test_a_client_that_goes_away_stops_the_work_and_the_log_says_so(server: LiveServer, tmp_path, definition: str):
    closed = tmp_path / "closed"
    ending = "\n    finally:\n        Path(CLOSED).touch()"
    server.serve("it", "import asyncio\nfrom pathlib import Path\n" + method(definition + ending), closed=str(closed))
    with logged("INFO", deploys=False) as lines:
        go_away(server, "/it/run", {}, tmp_path / "closed.began")
        eventually(lambda: closed.exists() and leases(server) == 0 and lines)

    assert lines == ["INFO POST /it/run was cancelled: the client went away"]


def test_a_slow_reader_is_felt_by_the_generator(server: LiveServer, tmp_path):
    count = tmp_path / "count"
    server.serve("it", method(MUCH), count=str(count))
    with server.client.stream("POST", "/it/run", json={}) as response:
        next(response.iter_raw())
        before, same = "", 0
        while same < 20:  # it waits for us
            now = count.read_text()
            before, same = now, same + 1 if now == before else 0
            time.sleep(0.01)
        assert int(before or 0) < 2_000


ENDS = """
import asyncio
from hayhooks import BasePipelineWrapper


class Once:
    asked = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.asked:
            await asyncio.Event().wait()
        self.asked = True
        raise StopAsyncIteration


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    async def run_api_async(self):
        return Once()
"""

BRIDGE = """
from hayhooks import BasePipelineWrapper


class PipelineWrapper(BasePipelineWrapper):
    def setup(self):
        pass

    def run_api(self):
        raise StopAsyncIteration("of another loop")
        yield
"""


def test_an_iterator_that_has_ended_is_not_asked_again(server: LiveServer):
    server.serve("it", ENDS)
    response = server.client.post("/it/run", json={}, timeout=60)
    assert (response.status_code, response.text) == (200, "")


def test_stop_async_iteration_of_sync_generator_is_failure(server: LiveServer):
    """A generator that raises the end of another kind of iterator has failed."""
    server.serve("it", BRIDGE)
    response = server.client.post("/it/run", json={})
    assert response.status_code == 500
    assert "of another loop" in response.json()["detail"]
