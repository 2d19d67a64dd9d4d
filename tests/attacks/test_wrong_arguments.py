"""Arguments that are wrong a million times: the answer, the memory and the time that it takes are small."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.attacks.measuring import Attacked

MANY = 1_000_000
FEW = 30_000


def repeated(before: bytes, item: bytes, count: int, after: bytes = b"]}") -> bytes:
    return before + b",".join([item] * count) + after


# By name: what makes the body, how many errors it has (or at least), and how many of them are shown.
WRONG: dict[str, tuple[Callable[[], bytes], int, int]] = {
    "items of a list": (lambda: repeated(b'{"numbers": [', b'""', MANY), MANY, 100),
    "missing fields": (lambda: repeated(b'{"trees": [', b"{}", FEW), FEW * 3, 100),
    "inside of models": (
        lambda: repeated(b'{"trees": [{"a":1,"b":2,"c":3,"children":[', b"{}", FEW, b"]}]}"), FEW * 3, 100
    ),
    "values of a dict": (lambda: b'{"by_name": {' + b",".join(b'"%d":""' % n for n in range(FEW)) + b"}}", FEW, 100),
    "one key, again and again": (lambda: repeated(b'{"by_name": {', b'"a":""', FEW, b"}}"), FEW, 100),
    "forbidden fields": (lambda: b'{"closed": {' + b",".join(b'"%d":0' % n for n in range(FEW)) + b"}}", FEW, 1),
    "of a dataclass": (lambda: b'{"data": {' + b",".join(b'"%d":0' % n for n in range(FEW)) + b"}}", FEW, 1),
    "of a dict": (lambda: b'{"dicts": [{' + b",".join(b'"%d":0' % n for n in range(FEW)) + b"}]}", FEW, 1),
    "lists in lists": (lambda: repeated(b'{"nested": [', b'[[""]]', FEW // 2), FEW // 2, 100),
    "a union": (lambda: repeated(b'{"either": [', b'""', FEW), FEW, 100),
    "a set": (lambda: repeated(b'{"unique": [', b'""', FEW), FEW, 100),
    "one long text": (lambda: b'{"numbers": ["' + b"x" * 20_000_000 + b'"]}', 1, 1),
    "one long key": (lambda: b'{"by_name": {"' + b"x" * 20_000_000 + b'": ""}}', 1, 1),
    "no object at all": (lambda: repeated(b"[", b'""', FEW, b"]"), 1, 1),
    "no end": (lambda: repeated(b'{"numbers": [', b'""', FEW, b""), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_million_errors_are_counted_and_the_first_hundred_told(attacked: Attacked, kind: str):
    make, count, shown = WRONG[kind]
    body = make()
    cost = attacked.cost(lambda: attacked.client.post("/it/run", content=body))

    assert cost.result.status_code == 422
    answer = cost.result.json()
    assert len(answer["detail"]) == shown
    assert answer.get("error_count", shown) >= count
    assert len(cost.result.content) <= 65_536
    cost.check(megabytes=150)


def test_few_errors_are_told_as_pydantic_does(attacked: Attacked):
    answer = attacked.client.post("/it/run", json={"numbers": ["a", 1, "b"], "either": [1, "c"], "closed": {"z": 1}})

    assert answer.json() == {
        "detail": [
            *(
                {
                    "type": "int_parsing",
                    "loc": loc,
                    "msg": "Input should be a valid integer, unable to parse string as an integer",
                    "input": text,
                }
                for loc, text in ((["body", "numbers", 0], "a"), (["body", "numbers", 2], "b"))
            ),
            {
                "type": "extra_forbidden",
                "loc": ["body", "closed", "z"],
                "msg": "Extra inputs are not permitted",
                "input": 1,
            },
            {
                "type": "int_parsing",
                "loc": ["body", "either", "list[int]", 1],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "input": "c",
            },
            {
                "type": "string_type",
                "loc": ["body", "either", "str"],
                "msg": "Input should be a valid string",
                "input": [1, "c"],
            },
        ]
    }


@pytest.mark.parametrize("value", ["x" * 5_000, {"a": "x" * 5_000}, ["\u20ac" * 2_000]])
def test_a_wrong_value_is_repeated_up_to_a_kilobyte(attacked: Attacked, value: Any):
    (detail,) = attacked.client.post("/it/run", json={"numbers": [value]}).json()["detail"]

    assert detail["loc"] == ["body", "numbers", 0]
    assert 500 < len(detail["input"]) <= 1_024
    assert detail["input"].endswith(" more)")


def test_a_hundred_long_values_are_not_all_repeated(attacked: Attacked):
    answer = attacked.client.post("/it/run", json={"numbers": ["x" * 900] * 70, "unique": list("abc")})

    assert len(answer.content) <= 65_536
    assert answer.json()["error_count"] == 73
    assert 30 < len(answer.json()["detail"]) < 73


@pytest.mark.parametrize(
    "body",
    [{"closed": {"a": 1}}, {"data": {"a": 1}}, {"dicts": [{"a": 1}, {}]}, {"closed": {}, "data": {}, "dicts": []}],
)
def test_what_has_no_other_fields_is_valid(attacked: Attacked, body: Any):
    assert attacked.client.post("/it/run", json=body).status_code == 200


@pytest.mark.parametrize("name", ["numbers", "other"])
def test_the_fields_of_a_form_are_checked_no_less(attacked: Attacked, name: str):
    fields = {"numbers": "[" + ",".join(['""'] * 300_000) + "]", name: "x"}
    cost = attacked.cost(lambda: attacked.client.post("/upload/run", data=fields, files={"files": b"x"}))

    if name == "numbers":
        assert cost.result.status_code == 422
        return
    assert cost.result.json()["error_count"] == 300_000
    assert len(cost.result.content) <= 65_536
    cost.check(megabytes=150)


def test_what_is_valid_is_taken_whole(attacked: Attacked):
    body = json.dumps({"numbers": list(range(200_000)), "text": "x" * 1_000_000}).encode()

    assert attacked.client.post("/it/run", content=body).json() == {"result": [200_000, 1_000_000]}
