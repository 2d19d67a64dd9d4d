"""The client of ``hayhooks.testing``: serves wrappers in a thread of this process, and asks them over HTTP.

It is a real server on a port of its own, so that streams, uploads, disconnects and every other client of OpenAI's API
are as in production.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, cached_property
from io import IOBase
from pathlib import Path
from socket import socket
from traceback import format_exception
from typing import TYPE_CHECKING, Any, NoReturn, Self

import httpx

from hayhooks.app import Hayhooks, create_app
from hayhooks.errors import LoadError, StartError
from hayhooks.kernel.discovery import WRAPPER_FILE, missing_wrapper_problem, single_name
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.places import OpenFiles
from hayhooks.kernel.state import Failure
from hayhooks.kernel.user_errors import cause_lines, headline, origin_in, place_of
from hayhooks.observability.log import intercept_stdlib_logging, log
from hayhooks.observability.request_record import current_request
from hayhooks.server.config import ServerConfig, server_options
from hayhooks.server.run import Server
from hayhooks.settings import Settings, export_env_file
from hayhooks.testing.answer import ChatAnswer, chunks_of

if TYPE_CHECKING:
    from openai import OpenAI

# What the environment sets of them is meant for a server that others reach.
_SETTINGS: Mapping[str, Any] = {
    "host": "127.0.0.1",
    "root_path": "",
    "allowed_hosts": ["*"],
    "api_keys": [],
    "api_keys_file": None,
    "ssl_certfile": None,
    "ssl_keyfile": None,
    "graceful_shutdown_timeout": 5,
    "load_jitter_ms": 0,
}


def client(target: "str | os.PathLike[str] | Hayhooks", *, timeout_s: float = 120, **settings: Any) -> "Client":
    """Return a client that serves *target* while it is open, in a ``with`` statement.

    It runs the lifespan and waits for the loads. Raises LoadError, with reason, file, line and hint, for a wrapper that
    does not load, an ExceptionGroup of them for several, FileNotFoundError where there is none, and TimeoutError.

    Args:
        target: a wrapper's folder, a YAML pipeline, a pipelines directory, or an application of ``create_app``.
        timeout_s: for the loads, and again for each pause in an answer.
        settings: arguments of ``Settings``. Others are those of the environment and ``.env``, whose variables the
            wrapper gets too; but address, TLS, keys and hosts are not.
    """
    return Client(target, timeout_s=timeout_s, **settings)


class Client(httpx.Client):
    """An ``httpx.Client`` of the server that it starts and stops.

    Attributes:
        app: the application that is served.
        name: of the one deployment that is served; "" for a directory or an application.
        url: of the server, for other clients; OpenAI's take ``f"{url}/v1"``.
    """

    app: Hayhooks
    name = ""
    url = ""

    def __init__(self, target: "str | os.PathLike[str] | Hayhooks", *, timeout_s: float = 120, **settings: Any) -> None:
        if unknown := settings.keys() - Settings.model_fields.keys():
            raise TypeError(f"client() has no argument and Settings no field {', '.join(sorted(unknown))}")
        super().__init__(timeout=timeout_s, trust_env=False, verify=False)  # there is no TLS
        self._target = target
        self._timeout_s = timeout_s
        self._settings = settings
        self._errors: dict[str, BaseException] = {}  # of wrappers, by the request's id

    def __enter__(self) -> Self:
        __tracebackhide__ = True  # pytest shows the line of the test
        super().__enter__()
        with ExitStack() as stack:
            stack.enter_context(_env_file_exported())
            _replace_default_log()
            stack.enter_context(self._errors_kept())
            self.app = self._target if isinstance(self._target, Hayhooks) else self._application(Path(self._target))
            self.url = stack.enter_context(_serving(self.app))
            stack.callback(self.close)  # first of all: no stream is left open when the server stops
            self.base_url = self.url
            self._wait_until_loaded()
            self._exit_stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self._exit_stack.__exit__(*exc_info)

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request, as ``httpx.Client`` does."""
        if not self.url:
            raise RuntimeError("nothing is served yet: use `with hayhooks.testing.client(...) as client:`")
        return super().send(request, **options)

    @cached_property
    def openai(self) -> "OpenAI":
        """OpenAI's client for this server; the models are the deployments' names."""
        from openai import OpenAI  # noqa: PLC0415 - takes a second

        client = OpenAI(base_url=f"{self.url}/v1", api_key="not needed", timeout=self._timeout_s, max_retries=0)
        self._exit_stack.callback(client.close)
        return client

    def wrapper(self, name: str = "") -> Any:
        """Return the wrapper that serves *name*, as to replace a component: ``client.wrapper().pipeline``."""
        return self.app.switch.live.snapshot.deployments[name or self._only_name()].wrapper

    def run(self, name: str = "", /, **arguments: Any) -> Any:
        """Return the result of ``POST /{name}/run``, the text of a stream, or the wrapper's own JSON or text.

        Paths, open binary files and pairs of file name and bytes, alone or in a list, are uploaded. Raises
        ``httpx.HTTPStatusError`` with the server's reason for a status from 400 on.
        """
        __tracebackhide__ = True
        files = {field: value for field, value in arguments.items() if _is_upload(value)}
        body: dict[str, Any] = {"json": arguments}
        if files:
            fields = {field: value for field, value in arguments.items() if field not in files}
            texts = {field: v if isinstance(v, str) else json.dumps(v) for field, v in fields.items()}
            parts = [(field, part) for field, value in files.items() for part in _files(value)]
            named = [(field, (f.name, f.read_bytes()) if isinstance(f, Path) else f) for field, f in parts]
            body = {"data": texts, "files": named}
        response = self._checked(self.post(f"/{name or self._only_name()}/run", **body))
        if response.headers.get("content-type", "").startswith("application/json"):
            answer = response.json()
            return answer["result"] if isinstance(answer, dict) and "result" in answer else answer
        return response.text

    def chat(
        self, messages: str | Sequence[Mapping[str, Any]], *, model: str = "", stream: bool = False, **body: Any
    ) -> ChatAnswer:
        """Return the answer of a chat completion, whole or streamed and collected.

        A text is one message of the user; *body* has further fields of the request. Errors are those of ``run``, also
        if the stream fails later.
        """
        __tracebackhide__ = True
        asked = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        body |= {"model": model or self._only_name(), "messages": asked, "stream": stream}
        if not stream:
            return ChatAnswer.of(self._checked(self.post("/v1/chat/completions", json=body)))
        body.setdefault("stream_options", {"include_usage": True})
        with self.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.is_error:
                response.read()
            answer = ChatAnswer(self._checked(response))
            for chunk in chunks_of(response):
                if "error" in chunk:
                    self._fail(response, f"the stream failed: {chunk['error']['message']}")
                answer.add(chunk)
            return answer

    def _application(self, path: Path) -> Hayhooks:
        path = Path(os.path.abspath(path))  # "." and ".." have names too
        name = single_name(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
        if name is None and not path.is_dir():
            raise FileNotFoundError(f"{path} is neither a directory nor a YAML pipeline (*.yml, *.yaml)")
        self.name = name or ""
        directory = path if name is None else path.parent
        return create_app(Settings(**{**_SETTINGS, **self._settings, "pipelines_dir": directory}), only=name)

    def _wait_until_loaded(self) -> None:
        __tracebackhide__ = True
        end = time.monotonic() + self._timeout_s
        while True:
            snapshot = self.app.switch.live.snapshot
            if snapshot.scanned and not snapshot.loading:
                break
            if time.monotonic() > end:
                kernel = self.app.reconciler
                loads = [f"{load.name} {load.why}" for load in (kernel.loading() if kernel else ())]
                raise TimeoutError(f"not loaded after {self._timeout_s:g} s: {', '.join(loads) or snapshot.problem}")
            time.sleep(0.002)
        errors = [_load_error(failure) for failure in snapshot.failures.values()]
        if len(errors) > 1:
            count = len(errors) + len(snapshot.deployments)
            raise ExceptionGroup(f"{len(errors)} of {count} pipelines do not load", errors)
        if errors:
            raise errors[0]
        if not snapshot.deployments:
            root = self.app.root
            raise FileNotFoundError(
                missing_wrapper_problem(root) or f"{root} has no wrapper (NAME/{WRAPPER_FILE}) and no YAML pipeline"
            )

    def _checked(self, response: httpx.Response) -> httpx.Response:
        __tracebackhide__ = True
        if response.is_error:
            try:
                reason = response.json()["detail"]
            except (ValueError, LookupError, TypeError):  # a response of the wrapper's own
                reason = response.text
            self._fail(response, f"{response.status_code}: {reason}")
        return response

    def _fail(self, response: httpx.Response, reason: str) -> NoReturn:
        __tracebackhide__ = True
        request = response.request
        message = f"{request.method} {request.url.path}: {reason}"
        error = self._errors.get(response.headers.get("x-request-id", ""))
        cause = error and origin_in(error, OpenFiles())
        raise httpx.HTTPStatusError(message, request=request, response=response) from cause

    @contextmanager
    def _errors_kept(self) -> Iterator[None]:
        def keep(entry: Any) -> None:
            request, exception = current_request.get(None), entry.record["exception"]
            if request is not None and exception is not None:
                self._errors[request.id] = exception.value

        sink = log.add(keep, level="ERROR", format="{message}")
        try:
            yield
        finally:
            with suppress(ValueError):  # a wrapper may have removed it
                log.remove(sink)

    def _only_name(self) -> str:
        __tracebackhide__ = True
        names = list(self.app.switch.live.snapshot.deployments)
        if len(names) != 1:
            raise ValueError(f"say which pipeline is meant: {', '.join(names)}")
        return names[0]


class StoppableServer(Server):
    """A server that another thread stops at once; uvicorn's looks ten times a second whether it shall."""

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Start; ``stop`` may be called from then on."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Serve until ``stop``."""
        await self.on_tick(0)
        await self._stop.wait()

    def stop(self) -> None:
        """End the server."""
        self._loop.call_soon_threadsafe(self._stop.set)


@contextmanager
def _serving(app: Hayhooks) -> Iterator[str]:
    server = StoppableServer(ServerConfig(app, **{**server_options(app.settings), "port": 0}))
    thread = threading.Thread(target=server.run, name="hayhooks testing", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise StartError("the server did not start; the log says why")
        time.sleep(0.001)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        thread.join()


@contextmanager
def _env_file_exported() -> Iterator[None]:
    before = set(os.environ)
    export_env_file()
    added = os.environ.keys() - before
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@cache
def _replace_default_log() -> None:
    """Print what the log has in few lines, in place of loguru's own handler, if nobody has configured another one.

    That one prints the frames of every library with the values in them. Ours looks up standard error for each entry:
    pytest's is another one in each test.
    """
    try:
        log.remove(0)
    except ValueError:
        return

    def show(entry: Any) -> None:
        record, exception = entry.record, entry.record["exception"]
        lines = [f"{record['level'].name}: {record['message']}"]
        if exception is not None:
            error = exception.value
            place = place_of(error, OpenFiles())
            if (reason := headline(error)) not in lines[0]:
                lines.append(reason)
            lines += cause_lines(error, OpenFiles())
            lines += [str(place)] if place is not None else "".join(format_exception(error)).splitlines()
        sys.stderr.write(with_public_names("\n  ".join(lines)) + "\n")

    def is_shown(record: Any) -> bool:
        """Whether it is a warning, or an entry of the wrapper's own."""
        return bool(record["level"].no >= log.level("WARNING").no) or not (record["name"] or "").startswith("hayhooks.")

    log.add(show, level="DEBUG", format="{message}", filter=is_shown)
    intercept_stdlib_logging(["haystack.components.agents"])  # which log the exception of a tool, without its place


def _load_error(failure: Failure) -> LoadError:
    error = LoadError(
        f"{failure.revision.name} does not load: {failure.reason}",
        traceback=failure.traceback,
        place=failure.place,
        hint=failure.hint,
    )
    if failure.place is not None:
        error.add_note(f"at {failure.place}")
    if failure.hint:
        error.add_note(f"hint: {failure.hint}")
    return error


def _files(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _is_upload(value: Any) -> bool:
    return bool(value) and all(
        isinstance(file, Path | IOBase)
        or (isinstance(file, tuple) and len(file) > 1 and isinstance(file[1], bytes | IOBase))
        for file in _files(value)
    )
