"""Client of the executions of a running server, for ``hayhooks executions``."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click
import httpx

from hayhooks.cli.client import IS_IT_RUNNING, NoAnswerError, Server
from hayhooks.cli.output import Cell, CommandError, note, say, say_json, say_table
from hayhooks.settings import Settings

_COLOURS = {"queued": "cyan", "running": "cyan", "waiting": "yellow", "completed": "green", "failed": "red"}
_PAGE = 100
_TIMEOUT_S = 30
_RETURN_S = 60  # for which `watch` waits for a server


class ExecutionClient:
    """What the commands do; a CommandError says what is wrong."""

    def __init__(self, settings: Settings) -> None:
        self._server = Server(settings)

    def list(self, name: str | None, statuses: Sequence[str], limit: int, *, as_json: bool) -> None:
        """Print the newest executions."""
        path = f"/{quote(name, safe='')}/executions" if name else "/executions"
        query: dict[str, Any] = {"status": list(statuses), "order": "desc"}
        found: list[dict[str, Any]] = []
        with self._client() as client:
            while len(found) < limit:
                page = _read(client.get(path, params=query | {"limit": min(limit - len(found), _PAGE)}))
                found += page["executions"]
                if not page["has_more"]:
                    break
                query["cursor"] = page["next_cursor"]
        if as_json:
            say_json(found)
        elif found:
            columns = ("id", "deployment", "kind", "status", "attempt", "age", "revision")
            now = datetime.now(UTC)
            cells: list[list[Cell]] = [
                [
                    each["execution_id"][:12],
                    each["deployment"],
                    each["kind"],
                    _status_cell(each["status"]),
                    str(each["attempt"]),
                    f"{int((now - datetime.fromisoformat(each['created_at'])).total_seconds())} s",
                    each["revision"],
                ]
                for each in found
            ]
            say_table(columns, cells)
        else:
            say("There are no executions.")

    def show(self, execution_id: str, *, as_json: bool) -> None:
        """Print one execution."""
        with self._client() as client:
            body = _read(client.get(self._path(client, execution_id)))
        if as_json:
            say_json(body)
            return
        say((body["execution_id"], "bold"), f"  {body['deployment']}  ", _status_cell(body["status"]))
        for label in ("kind", "revision", "waiting_for", "created_at", "updated_at", "delay_until"):
            if body[label]:
                say(f"{label.replace('_', ' '):<12} {body[label]}")
        for attempt in body["attempts"]:
            ended = attempt["outcome"] or ("runs" if body["status"] == "running" else "its process died")
            say(f"{'attempt':<12} {attempt['attempt']}  {attempt['started_at']}  {ended}  on {attempt['revision']}")
        if body["steps"]:
            say(f"{'steps':<12} {', '.join(body['steps'])}")
        for event in body["progress"]:
            say(f"{'progress':<12} {event['timestamp']}  {event['message']}")
        for label in ("waiting", "error", "result"):
            if body[label] is not None:
                say(f"{label}:")
                say_json(body[label])

    def watch(self, execution_id: str) -> int:
        """Print what happens to an execution until it ends, also over a restart; return the exit status."""
        seen = _Seen()
        with self._client(timeout_s=None) as client:
            url = f"{self._path(client, execution_id)}/stream"
            lost_at = None
            while True:
                try:
                    headers = {"Last-Event-ID": seen.cursor} if seen.cursor else {}
                    with client.stream("GET", url, params={"events": "all"}, headers=headers) as response:
                        if response.is_success:
                            lost_at = None
                            for kind, data in seen.events(response.iter_lines()):
                                if (status := _say_event(kind, data)) is not None:
                                    return status
                        else:
                            response.read()
                            if response.status_code not in (404, 503) or "Execution not found" in response.text:
                                _read(response)  # else its deployment is not loaded yet
                except httpx.TransportError:
                    pass  # the server stops, or another will be there soon
                if lost_at is None:
                    lost_at = time.monotonic()
                    note(("The stream was cut: waiting for the server", "yellow"))
                if time.monotonic() - lost_at > _RETURN_S:
                    raise CommandError(f"No server at {self._server.url} has the execution since {_RETURN_S} s")
                time.sleep(0.5)

    def act(self, execution_id: str, action: str, body: Any) -> None:
        """Cancel, resume or retry an execution, and print its state."""
        with self._client() as client:
            answer = _read(client.post(f"{self._path(client, execution_id)}/{action}", json=body))
        say((answer["execution_id"], "bold"), "  ", _status_cell(answer["status"]))

    def delete(self, execution_id: str) -> None:
        """Forget an execution."""
        with self._client() as client:
            path = self._path(client, execution_id)
            _read(client.delete(path))
        say(f"Deleted {path.rpartition('/')[2]}.")

    @contextmanager
    def _client(self, timeout_s: float | None = _TIMEOUT_S) -> Iterator[httpx.Client]:
        try:
            with self._server.http_client(timeout_s) as client:
                client.base_url = httpx.URL(self._server.url)
                yield client
        except NoAnswerError as error:
            raise CommandError(str(error)) from None
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise CommandError(f"No answer from {self._server.url}: {reason}. {IS_IT_RUNNING}") from None

    def _path(self, client: httpx.Client, execution_id: str) -> str:
        """Return the path of the one execution whose id begins so."""
        found = [
            each
            for each in _read(client.get("/executions", params={"search": execution_id}))["executions"]
            if each["execution_id"].startswith(execution_id)
        ]
        if not found:
            raise CommandError(f"There is no execution {execution_id!r} (hayhooks executions list)")
        if len(found) > 1:
            raise CommandError(f"{len(found)} executions begin with {execution_id!r}: give more of the id")
        return f"/{quote(found[0]['deployment'], safe='')}/executions/{found[0]['execution_id']}"


def parsed(value: str | None) -> Any:
    """Return the JSON in *value*, None without one; a usage error if it is none."""
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError as error:
        raise click.UsageError(f"{value!r} is no JSON: {error}; a text is written as '\"text\"'") from None


def _read(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json() if response.content else None
    try:
        detail = response.json()["detail"]
    except (ValueError, LookupError, TypeError):
        detail = response.reason_phrase
    if isinstance(detail, list):
        detail = "; ".join(": ".join([*map(str, each["loc"][1:]), each["msg"]]) for each in detail)
    raise CommandError(f"{detail} ({response.status_code})")


class _Seen:
    """What was printed of an execution: where its stream goes on."""

    def __init__(self) -> None:
        self.cursor = ""  # of the last chunk
        self._progress = 0  # number of the last event
        self._status = ""

    def events(self, lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
        """Yield the type and the data of each event that is new: one line of JSON, as the server sends it."""
        kind = ""
        for line in lines:
            name, _, value = line.partition(": ")
            match name:
                case "id":
                    self.cursor = value
                case "event":
                    kind = value
                case "data":
                    data = json.loads(value)
                    if kind == "progress" and data["sequence"] <= self._progress:
                        continue
                    if kind == "status" and data["status"] == self._status:
                        continue
                    self._progress = data["sequence"] if kind == "progress" else self._progress
                    self._status = data["status"] if kind == "status" else self._status
                    yield kind, data


def _say_event(kind: str, data: Any) -> int | None:
    """Print an event; return the exit status at the end."""
    match kind:
        case "chunk":
            payload = data["payload"]
            say(payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False))
        case "progress":
            note((f"{data['message']}", "dim"))
        case "status":
            note(_status_cell(data["status"]))
        case "completed" | "failed" | "canceled":
            note(_status_cell(kind))
            say_json(data["result"] if kind == "completed" else data["error"])
            return 0 if kind == "completed" else 1
    return None


def _status_cell(status: str) -> Cell:
    return (status, _COLOURS.get(status, ""))
