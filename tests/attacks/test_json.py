"""JSON that takes much more to read than to send, and JSON in other encodings than UTF-8."""

import gc
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.attacks.measuring import Attacked
from tests.live_server import SharedServer
from tests.wrappers import source

MESSAGES = b'"messages": [{"role": "user", "content": "x"}]'

# Each is made in its test: all together are 150 MB.
DENSE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * 3_000_000 + b"[]]",
    "objects": lambda: b"[" + b"{}," * 3_000_000 + b"{}]",
    "nested lists": lambda: b"[" + b"[[[[[[[[[[]]]]]]]]]]," * 300_000 + b"[]]",
    "keys": lambda: b"{" + b'"a":0,' * 1_000_000 + b'"a":0}',
    "numbers": lambda: b"[" + b"0," * 3_000_000 + b"0]",
    "texts": lambda: b"[" + b'"",' * 3_000_000 + b'""]',
    "open lists": lambda: b"[" * 20_000_000,
    "commas": lambda: b"," * 20_000_000,
}


def body_of(path: str, value: bytes) -> bytes:
    return b'{"anything": ' + value + b"}" if path == "/it/run" else b"{" + MESSAGES + b', "metadata": ' + value + b"}"


@pytest.mark.parametrize(("path", "kind"), [*(("/it/run", kind) for kind in DENSE), ("/it/chat", "lists")])
def test_json_of_too_many_values_is_413_and_leaves_the_loop_free(attacked: Attacked, path: str, kind: str):
    body = body_of(path, DENSE[kind]())
    cost = attacked.cost(lambda: attacked.client.post(path, content=body))

    assert cost.result.status_code == 413
    assert "HAYHOOKS_MAX_JSON_VALUES" in cost.result.json()["detail"]
    cost.check(megabytes=120)


ALLOWED: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * 170_000 + b"[]]",
    "keys": lambda: b"{" + b",".join(b'"%d":0' % number for number in range(170_000)) + b"}",
    "numbers": lambda: b"[" + b"0.125," * 1_900_000 + b"0]",
}


@pytest.mark.parametrize(("path", "kind"), [*(("/it/run", kind) for kind in ALLOWED), ("/it/chat", "lists")])
def test_the_largest_json_that_is_read_leaves_the_loop_free(attacked: Attacked, path: str, kind: str):
    body = body_of(path, ALLOWED[kind]())
    cost = attacked.cost(lambda: attacked.client.post(path, content=body))

    assert cost.result.status_code == 200
    cost.check(megabytes=600)


@pytest.mark.parametrize("form", [False, True])
def test_nothing_is_collected_while_many_objects_are_made(shared_server: SharedServer, form: bool):
    """A collection each 700 lists, some of which look through all objects, stops every thread."""
    shared_server.serve("it", source("attacked_files"))
    lists = b"[" + b"[]," * 100_000 + b"[]]"
    collections = []

    def note(phase: str, _: object) -> None:
        collections.append(phase)

    gc.callbacks.append(note)
    try:
        sent = {"data": {"anything": lists.decode()}} if form else {"content": body_of("/it/run", lists)}
        assert shared_server.client.post("/it/run", **sent).status_code == 200
    finally:
        gc.callbacks.remove(note)
    assert len(collections) < 100
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("piece", "times"),
    [("[,{:", 2_000_000), ('{"a": 1}, ', 1_000_000), ('"', 2_000_000), ("\\", 2_000_000), ("x", 20_000_000)],
)
def test_what_is_inside_of_a_text_is_not_counted(attacked: Attacked, piece: str, times: int):
    text = piece * times
    body = json.dumps({"text": text}).encode()
    cost = attacked.cost(lambda: attacked.client.post("/it/run", content=body))

    assert cost.result.json() == {"result": [0, len(text)]}
    cost.check(megabytes=600)


@pytest.mark.parametrize(("piece", "times"), [(b'\\"', 5_000_000), (b"\\", 9_999_999), (b'"', 9_999_998)])
def test_a_text_that_does_not_end_costs_no_more(attacked: Attacked, piece: bytes, times: int):
    body = b'{"anything": [' + b"[]," * 500_000 + b'"' + piece * times
    cost = attacked.cost(lambda: attacked.client.post("/it/run", content=body))

    assert cost.result.status_code in (413, 422)
    cost.check(megabytes=600)


ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("length", [10, 100_000])
def test_json_in_any_unicode_is_read(attacked: Attacked, encoding: str, length: int):
    text = "\u20ac\U0001f600" * (length // 2)
    for path, value in {"/it/run": {"text": text}, "/upload/run": {"text": text}}.items():
        answer = attacked.client.post(path, content=json.dumps(value, ensure_ascii=False).encode(encoding))
        assert answer.status_code == 200, answer.text
    for path in ("/it/chat", "/v1/chat/completions"):
        chat: dict[str, Any] = {"model": "it", "messages": [{"role": "user", "content": text}]}
        answer = attacked.client.post(path, content=json.dumps(chat, ensure_ascii=False).encode(encoding))
        assert answer.json()["choices"][0]["message"]["content"] == "1"


@pytest.mark.parametrize(
    "body",
    ['{"text": "caf\u00e9"}'.encode("latin-1"), b'\xff\xfe{\x00"\x00\x00\xd8', b"\x00\x00\xfe\xff\x00\x11\x00\x00"],
    ids=["latin-1", "half a UTF-16", "no UTF-32"],
)
def test_json_in_another_encoding_is_told_so(attacked: Attacked, body: bytes):
    run = attacked.client.post("/it/run", content=body)
    chat = attacked.client.post("/it/chat", content=body)

    assert (run.status_code, chat.status_code) == (422, 400)
    assert "JSON must be UTF-8" in run.json()["detail"][0]["msg"]
    assert "JSON must be UTF-8" in chat.json()["error"]["message"]
