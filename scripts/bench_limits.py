"""The limit: bare Starlette applications that do the benchmarked work and nothing else.

They handle no errors, disconnects, back pressure or limits, so hayhooks' difference is the cost of its contract. Their
paths are those of the wrappers. Usage: bench_limits.py PORT [ROUTES]
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import cache, partial
from typing import Any

import anyio.to_thread
import bench_work as work
import uvicorn
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
Chunks = AsyncIterator[list[str]]

SHOUT = TypeAdapter(work.Shout)
ARTICLES = TypeAdapter(dict[str, list[work.Article]])
RESULT = TypeAdapter(list[work.Article])
AT_ONCE = 64

# Created at the first use: Haystack takes a second to import.
prompting, speaking = cache(work.prompting), cache(work.speaking)


def main() -> None:
    port, routes = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
    uvicorn.run(application(routes), port=port, log_level="warning", access_log=False)


def application(more: int) -> Starlette:
    """Return an application with the wrappers' paths, after *more* other routes."""
    runs: dict[str, Endpoint] = {
        "run_async": answer_async,
        "run_sync": threaded(SHOUT, work.shout),
        "run_sleeping": threaded(SHOUT, work.nap),
        "run_busy": threaded(SHOUT, work.count_down),
        "run_objects": answer_objects,
        "run_pipeline": threaded(SHOUT, lambda text, times=1: work.prompted(prompting(), text, times)),
    }
    streams: dict[str, ASGIApp] = {
        "chat_async": Stream(async_one_by_one, dumped),
        "chat_async_together": Stream(async_together, filled_in),
        "chat_sync": Stream(sync_together, filled_in),
        "chat_sync_hopping": Stream(sync_one_by_one, dumped),
        "chat_pipeline": Stream(lambda count, pause_s: of_pipeline(speaking(), count, pause_s), filled_in),
    }
    routes = [Route(f"/many{number}/run", answer_async, methods=["POST"]) for number in range(more)]
    routes += [Route(f"/{name}/run", endpoint, methods=["POST"]) for name, endpoint in runs.items()]
    routes += [Route(f"/{name}/chat", endpoint, methods=["POST"]) for name, endpoint in streams.items()]
    return Starlette(routes=[*routes, Route("/status", status)])


async def status(request: Request) -> Response:
    return Response(b'{"status":"Up!"}', media_type="application/json")


def result(value: bytes) -> Response:
    return Response(b'{"result":' + value + b"}", media_type="application/json")


async def answer_async(request: Request) -> Response:
    return result(to_json(work.shout(**SHOUT.validate_json(await request.body()))))


async def answer_objects(request: Request) -> Response:
    return result(RESULT.dump_json(work.discounted(**ARTICLES.validate_json(await request.body()))))


def threaded(arguments: TypeAdapter[Any], method: Callable[..., str]) -> Endpoint:
    """Run *method* in anyio's threads, with as many threads as a hayhooks deployment has."""
    limiter: list[anyio.CapacityLimiter] = []

    async def endpoint(request: Request) -> Response:
        if not limiter:
            limiter.append(anyio.CapacityLimiter(200))
        call = partial(method, **arguments.validate_json(await request.body()))
        return result(to_json(await anyio.to_thread.run_sync(call, limiter=limiter[0])))

    return endpoint


def dumped(word: str) -> bytes:
    """Encode an event with *word* as hand-written code does."""
    return event({"content": word})


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: " + to_json({**HEAD, "choices": [choice]}) + b"\n\n"


HEAD = {
    "id": "chatcmpl-0123456789abcdef0123456789abcdef",
    "object": "chat.completion.chunk",
    "created": 1,
    "model": "m",
}
BEFORE, AFTER = dumped("").split(b'""')


def filled_in(word: str) -> bytes:
    """Encode an event with *word* into a constant template, the fastest way."""
    return BEFORE + to_json(word) + AFTER


class Stream:
    """Send the batches of *read* as OpenAI chunks, one ASGI message per batch."""

    def __init__(self, read: Callable[[int, float], Chunks], write: Callable[[str], bytes]) -> None:
        self._read = read
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = from_json(await Request(scope, receive).body())
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        first = [event({"role": "assistant", "content": ""})]
        async for batch in self._read(*work.wanted(body["messages"])):
            data = b"".join([*first, *map(self._write, batch)])
            await send({"type": "http.response.body", "body": data, "more_body": True})
            first = []
        last = event({}, "stop") + b"data: [DONE]\n\n"
        await send({"type": "http.response.body", "body": last, "more_body": False})


async def async_one_by_one(count: int, pause_s: float) -> Chunks:
    async for word in work.words_async(count, pause_s):
        yield [word]


async def async_together(count: int, pause_s: float) -> Chunks:
    batch = []
    async for word in work.words_async(count, pause_s):
        batch.append(word)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    yield batch


async def sync_one_by_one(count: int, pause_s: float) -> Chunks:
    """Iterate in a thread with a hop per item, as Starlette does."""
    items = work.words(count, pause_s)
    while (word := await anyio.to_thread.run_sync(next, items, None)) is not None:
        yield [word]


def sync_together(count: int, pause_s: float) -> Chunks:
    return from_thread(lambda put: put_all(put, work.words(count, pause_s)))


def put_all(put: Callable[[str], None], items: Iterator[str]) -> None:
    for item in items:
        put(item)


def of_pipeline(pipeline: Any, count: int, pause_s: float) -> Chunks:
    def run(put: Callable[[str], None]) -> None:
        def callback(chunk: Any) -> None:
            put(chunk.content)

        pipeline.run({"speaker": {"count": count, "pause_s": pause_s, "streaming_callback": callback}})

    return from_thread(run)


async def from_thread(run: Callable[[Callable[[str], None]], None]) -> Chunks:
    """Yield the words that *run* puts in a thread, in batches; only the first word of a batch wakes the loop."""
    loop, arrived, lock = asyncio.get_running_loop(), asyncio.Event(), threading.Lock()
    words: list[str] = []
    ended = False

    def put(word: str) -> None:
        with lock:  # the consumer replaces `words` after each batch
            words.append(word)
            first = len(words) == 1
        if first:
            loop.call_soon_threadsafe(arrived.set)

    def job() -> None:
        nonlocal ended
        run(put)
        ended = True
        loop.call_soon_threadsafe(arrived.set)

    threading.Thread(target=job, daemon=True).start()
    while not ended or words:
        await arrived.wait()
        arrived.clear()
        with lock:
            batch, words = words, []
        yield batch


if __name__ == "__main__":
    main()
