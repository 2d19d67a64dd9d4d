"""What clients of the original's durable executions send, and what they get: played to ours, recorded from theirs.

``python -m tests.endpoints.durable_contract URL > tests/endpoints/durable_contract.json`` records from a running
hayhooks 2.1.0 with ``HAYHOOKS_DURABLE_MODE=true HAYHOOKS_DURABLE_STORE=memory``, which serves
tests/wrappers/durable_original.py as ``contract``.
"""

import json
import re
import sys
import time
from typing import Any

import httpx

_HEADERS = ("content-type", "location", "idempotent-replay", "retry-after", "cache-control", "x-accel-buffering")
_ENDS = ("completed", "failed", "canceled")

_is_time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z").fullmatch


class Player:
    """Sends requests to a server, and notes the answers with what differs each time taken out."""

    def __init__(self, client: httpx.Client) -> None:
        self.notes: dict[str, Any] = {}
        self._client = client
        self._ids: list[str] = []  # of executions, in the order of their appearance

    def play(self, label: str, method: str, path: str, **request: Any) -> Any:
        """Send a request and note the answer as *label*; return its body."""
        response = self._client.request(method, f"/contract{path}", timeout=60, **request)
        is_json = response.headers["content-type"] == "application/json"
        body = response.json() if is_json else response.text
        self.notes[label] = {
            "status": response.status_code,
            "headers": {name: self._plain(response.headers[name]) for name in _HEADERS if name in response.headers},
            "body": self._plain(body if is_json else events_of(body)),
        }
        return body

    def order(self, label: str, work: Any, **headers: str) -> str:
        """Order an execution, and return its path."""
        return f"/executions/{self.play(label, 'POST', '/run-durable', json=work, headers=headers)['execution_id']}"

    def show(self, label: str, path: str, status: str) -> None:
        """Wait until an execution has *status*, and note it then."""
        deadline = time.monotonic() + 60
        while self._client.get(f"/contract{path}").json()["status"] != status:
            assert time.monotonic() < deadline, f"{label} is not {status}"
            time.sleep(0.05)
        self.play(label, "GET", path)

    def _plain(self, value: Any) -> Any:
        match value:
            case dict():
                varying = {"next_cursor", *(("sequence",) if "execution_id" in value else ())}
                plain = {key: self._plain(each) for key, each in value.items()}
                return plain | {key: f"<{key}>" for key in varying & plain.keys() if plain[key]}
            case list():
                return [self._plain(each) for each in value]
            case str() if _is_time(value):
                return "<time>"
            case str():
                for found in re.findall(r"\b[0-9a-f]{32}\b", value):
                    if found not in self._ids:
                        self._ids.append(found)
                    value = value.replace(found, f"<id {self._ids.index(found)}>")
                return value
        return value


def events_of(text: str) -> list[dict[str, Any]]:
    """Return the server-sent events in *text*; comments are events without data, ids are only noted to be there."""
    events = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.partition(":")[::2] for line in block.split("\n"))
        event = {name: value.removeprefix(" ") for name, value in fields.items()}
        if "data" in event:
            event["data"] = json.loads(event["data"])
        if "id" in event:
            event["id"] = re.sub(r"\d+", "0", event["id"])
        events.append(event)
    return events


def ids_of(text: str) -> list[str]:
    """Return the ids of the events in *text*."""
    return re.findall(r"^id: (.*)$", text, re.MULTILINE)


def play(client: httpx.Client) -> dict[str, Any]:
    """Play all of it, and return what was noted."""
    player = Player(client)
    answer = _order(player)
    _wait(player)
    _stream(player)
    _cancel(player)
    _err(player, answer)
    _list(player, answer)
    return player.notes


def _order(player: Player) -> str:
    keyed = {"Idempotency-Key": "a-key"}
    answer = player.order("order", {"do": "answer"}, **keyed)
    player.show("completed", answer, "completed")
    player.order("order again", {"do": "answer"}, **keyed)
    player.play("same key, other work", "POST", "/run-durable", json={"do": "fail"}, headers=keyed)
    other = player.order("same key, other owner", {"do": "answer"}, **keyed, **{"X-Owner": "bob"})
    player.play("of another owner", "GET", other)
    player.play("cancel of another owner", "POST", f"{other}/cancel")
    player.play("cancel what has ended", "POST", f"{answer}/cancel")
    player.play("resume what has ended", "POST", f"{answer}/resume", json={"approved": True})
    player.show("failed", player.order("order a failure", {"do": "fail"}), "failed")
    player.show("retried in vain", player.order("order retries", {"do": "retry"}), "failed")
    return answer


def _wait(player: Player) -> None:
    asked = player.order("order a question", {"do": "ask"})
    player.show("waiting", asked, "waiting")
    player.play("resume with another type", "POST", f"{asked}/resume", json={"approved": []})
    player.play("resume without a body", "POST", f"{asked}/resume")
    player.play("resume", "POST", f"{asked}/resume", json={"approved": True, "note": "fine"})
    player.show("resumed", asked, "completed")
    forgotten = player.order("order another question", {"do": "ask"})
    player.show("waiting too", forgotten, "waiting")
    player.play("cancel what waits", "POST", f"{forgotten}/cancel")


def _stream(player: Player) -> None:
    spoken = player.order("order a stream", {"do": "speak", "count": 3})
    stream = player.play("stream", "GET", f"{spoken}/stream")
    last = ids_of(stream)[1]
    player.play("stream what has ended", "GET", f"{spoken}/stream")
    player.play("stream from a cursor", "GET", f"{spoken}/stream", headers={"Last-Event-ID": last})
    player.play("stream from no cursor", "GET", f"{spoken}/stream", headers={"Last-Event-ID": "abc"})


def _cancel(player: Player) -> None:
    slow = player.order("order sleep", {"do": "sleep"})
    player.show("running", slow, "running")
    queued = player.order("order behind it", {"do": "answer"})
    player.play("cancel what is queued", "POST", f"{queued}/cancel")
    player.play("cancel what runs", "POST", f"{slow}/cancel")
    player.show("canceled", slow, "canceled")


def _err(player: Player, answer: str) -> None:
    player.play("no such execution", "GET", f"/executions/{'0' * 32}")
    player.play("no id", "GET", "/executions/a.b")
    player.play("empty key", "POST", "/run-durable", json={"do": "answer"}, headers={"Idempotency-Key": ""})
    player.play("long key", "POST", "/run-durable", json={"do": "answer"}, headers={"Idempotency-Key": "k" * 513})
    player.play("wrong body", "POST", "/run-durable", json={"do": 1})
    player.play("no JSON", "POST", "/run-durable", content="{", headers={"content-type": "application/json"})
    player.play("no body", "POST", "/run-durable")
    player.play("owner of no length", "GET", answer, headers={"X-Owner": ""})


def _list(player: Player, answer: str) -> None:
    page = player.play("list", "GET", "/executions?limit=2")
    player.play("list on", "GET", f"/executions?limit=4&cursor={page['next_cursor']}")
    player.play("list by status", "GET", "/executions?status=failed")
    player.play("list of another owner", "GET", "/executions", headers={"X-Owner": "bob"})
    player.play("list by id", "GET", f"/executions?search={answer[-32:]}")
    player.play("list by revision", "GET", "/executions?revision=v2")
    for query in ("limit=0", "limit=101", "status=odd", "cursor=odd", "limit=x"):
        player.play(f"list {query}", "GET", f"/executions?{query}")


if __name__ == "__main__":
    with httpx.Client(base_url=sys.argv[1]) as recorded:
        lines = [f"{json.dumps(label)}: {json.dumps(note)}" for label, note in play(recorded).items()]
    sys.stdout.write("{" + ",\n".join(lines) + "}\n")
