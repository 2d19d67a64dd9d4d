"""``/console/difference``: the words that differ in two texts."""

import random
import time

import pytest

from hayhooks.console.difference import compare
from tests.live_server import LiveServer


def test_words_that_differ_are_marked(server: LiveServer):
    texts = {"before": "The old answer, to you.", "after": "The new answer, to them all."}
    answer = server.client.post("/console/difference", json=texts)

    assert [(run["kind"], run["text"]) for run in answer.json()["runs"]] == [
        ("same", "The "),
        ("removed", "old"),
        ("added", "new"),
        ("same", " answer, to "),
        ("removed", "you"),
        ("added", "them all"),
        ("same", "."),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_the_runs_are_both_texts(seed: int):
    chosen = random.Random(seed)
    before, after = ("".join(chosen.choices(["a", "bc", " ", "\n", ".", "é", "😀"], k=60)) for _ in range(2))
    runs = list(compare(before, after))

    assert "".join(text for kind, text in runs if kind != "added") == before
    assert "".join(text for kind, text in runs if kind != "removed") == after
    assert all(text for _, text in runs)


def test_equal_and_empty_texts():
    assert list(compare("a b", "a b")) == [("same", "a b")]
    assert list(compare("", "")) == []
    assert list(compare("", "a")) == [("added", "a")]
    assert list(compare("a a", "a")) == [("same", "a"), ("removed", " a")]


@pytest.mark.parametrize("words", [["a "], ["a ", "b "], [f"{number} " for number in range(100)]])
def test_much_that_differs_is_compared_soon(words: list[str]):
    chosen = random.Random(1)
    for count in (700, 20_000):
        before, after = ("x" + "".join(chosen.choices(words, k=count)) + "y" * side for side in (1, 2))
        began_at = time.thread_time()
        runs = list(compare(before, after))
        assert time.thread_time() - began_at < 10
        assert "".join(text for kind, text in runs if kind != "removed") == after


@pytest.mark.parametrize(
    "body", [{}, [], {"before": "a"}, {"before": "a", "after": 1}, {"before": "a", "after": "x" * 100_001}]
)
def test_another_body_is_refused(server: LiveServer, body: object):
    answer = server.client.post("/console/difference", json=body)

    assert answer.status_code == 400
    assert '{"before": text, "after": text}' in answer.json()["detail"]
