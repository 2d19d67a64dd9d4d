"""``hayhooks dev --try``: requests that are sent again after each save, and what changed in their answers."""

import json
import queue
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx
from rich.text import Text

from hayhooks.cli.client import Server
from hayhooks.cli.dev_output import DevOutput
from hayhooks.cli.server_sent_events import json_or_text
from hayhooks.http.hooks import Hooks
from hayhooks.kernel.state import Change, Deployment, Snapshot
from hayhooks.observability.log import printable
from hayhooks.observability.request_record import RequestRecord

THREAD = "hayhooks try"  # the name of the thread that sends the requests
_MAX_LINES = 40  # of an answer
_CONTEXT_LINES = 2  # around what changed
_MAX_LINE = 400  # characters
_MAX_NAMES = 10  # of pipelines, in one line
_PAUSE_S = 0.02  # between two tries to connect
_MAX_WAIT_S = 1.0  # for the line of a request, which comes before its answer


@dataclass(frozen=True, slots=True)
class TryRequest:
    """A request to the pipeline *name*: the arguments of ``/run``, or with ``messages`` a chat."""

    name: str
    body: dict[str, Any]

    @property
    def path(self) -> str:
        """The path that it is sent to."""
        return f"/{quote(self.name, safe='')}/{'chat' if 'messages' in self.body else 'run'}"


def parsed(requests: Iterable[tuple[str, str]], file: Path | None) -> list[TryRequest]:
    """Return the *requests*, each a name and its JSON, and those in the lines of *file*; raise ``UsageError``."""
    found = [_request(name, text, "--try") for name, text in requests]
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file else []
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--try-file {file}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            name, _, text = line.strip().partition(" ")
            found.append(_request(name, text, f"{file}:{number}:"))
    return found


def _request(name: str, text: str, where: str) -> TryRequest:
    body = json_or_text(text)
    if not isinstance(body, dict):
        raise click.UsageError(
            f"""{where} {name} {text[:80]}: expected a name and a JSON object, as echo '{{"a": 1}}'"""
        )
    return TryRequest(name, body)


@contextmanager
def tried(requests: list[TryRequest], hooks: Hooks, server: Server, output: DevOutput) -> Iterator[None]:
    """Send those of *requests* whose pipeline has a new revision, in a thread, until the block ends."""
    if not requests:
        yield
        return
    tries = _Tries(requests, server, output)
    threading.Thread(target=tries.run, name=THREAD, daemon=True).start()
    with hooks.use(on_publish=tries.note_snapshot, on_change=tries.note_change, on_request_end=tries.note_end):
        yield


class _Tries:
    """Sends the requests, and prints what changed since the last answer to each."""

    def __init__(self, requests: list[TryRequest], server: Server, output: DevOutput) -> None:
        self._requests = requests
        self._server = server
        self._output = output
        self._answers: dict[int, list[str]] = {}  # by the request's position: the lines of its last answer
        self._deployed: queue.SimpleQueue[str] = queue.SimpleQueue()  # names
        self._has_checked = False  # the names, once the directory is known
        self._id = ""  # of the request that runs
        self._has_ended = threading.Event()  # and its own line is printed

    def note_snapshot(self, snapshot: Snapshot) -> None:
        if self._has_checked or not snapshot.ready:
            return
        self._has_checked = True
        known = sorted({*snapshot.deployments, *snapshot.failures, *snapshot.loading})
        for name in dict.fromkeys(request.name for request in self._requests if request.name not in known):
            close = get_close_matches(name, known, n=1)
            meant = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known[:_MAX_NAMES]) or 'none'}"
            self._output.show(f"  --try: there is no pipeline {name!r} yet; {meant}", "yellow", indent=2)

    def note_change(self, change: Change) -> None:
        if isinstance(change.outcome, Deployment):
            self._deployed.put(change.name)

    def note_end(self, record: RequestRecord) -> None:
        if record.id == self._id:
            self._has_ended.set()

    def run(self) -> None:
        """Send requests for ever; the names that wait are tried once."""
        with self._server.http_client(None) as client:  # a pipeline may take long
            self.wait_until_it_listens(client)
            while True:
                names = {self._deployed.get()}
                while not self._deployed.empty():
                    names.add(self._deployed.get())
                for position, request in enumerate(self._requests):
                    if request.name in names:
                        self.send(client, position, request)

    def wait_until_it_listens(self, client: httpx.Client) -> None:
        """Wait until the server listens: it may have loaded the first revisions before."""
        while True:
            with suppress(httpx.ConnectError):
                client.get(f"{self._server.url}/healthz")
                return
            time.sleep(_PAUSE_S)

    def send(self, client: httpx.Client, position: int, request: TryRequest) -> None:
        self._id = f"try-{secrets.token_hex(8)}"
        self._has_ended.clear()
        try:
            url = self._server.url + request.path
            response = client.post(url, json=request.body, headers={"X-Request-Id": self._id})
        except (httpx.HTTPError, ValueError) as error:  # Python reads NaN as JSON, and httpx does not write it
            self._output.show(f"  {request.path}: {str(error) or type(error).__name__}", "red", indent=2)
            return
        self._has_ended.wait(_MAX_WAIT_S)
        if not response.is_success:
            return  # the lines of the request tell it
        lines = _lines(response)
        before, self._answers[position] = self._answers.get(position), lines
        if before == lines:
            self._output.show("  the same answer", "dim")
            return
        shown = list(_difference(before, lines) if before is not None else (Text(f"    {line}") for line in lines))
        if len(shown) > _MAX_LINES:
            shown[_MAX_LINES:] = [Text(f"    ... {len(shown) - _MAX_LINES} more lines", style="dim")]
        self._output.show_lines(shown, indent=6)


def _lines(response: httpx.Response) -> list[str]:
    """Return the answer as lines: the text of a result or a chat, else indented JSON."""
    body = json_or_text(response.text) if "json" in response.headers.get("content-type", "") else response.text
    match body:
        case {"result": result} if len(body) == 1:
            body = result
        case {"choices": [{"message": {"content": str(content)}}, *_]} if content:
            body = content
        case {"choices": [{"message": message}, *_]}:
            body = message
    text = body if isinstance(body, str) else json.dumps(body, indent=2, ensure_ascii=False)
    return [
        line if line.isprintable() and len(line) <= _MAX_LINE else printable(line, _MAX_LINE).replace(r"\x20", " ")
        for line in text.splitlines()
    ]


def _difference(before: list[str], after: list[str]) -> Iterator[Text]:
    """Yield the lines that went and came, and a few around them."""
    for number, group in enumerate(
        SequenceMatcher(None, before, after, autojunk=False).get_grouped_opcodes(_CONTEXT_LINES)
    ):
        if number:
            yield Text("    ...", style="dim")
        for what, old_start, old_end, start, end in group:
            if what == "equal":
                yield from (Text(f"    {line}", style="dim") for line in after[start:end])
                continue
            yield from (Text(f"  - {line}", style="red") for line in before[old_start:old_end])
            yield from (Text(f"  + {line}", style="green") for line in after[start:end])
