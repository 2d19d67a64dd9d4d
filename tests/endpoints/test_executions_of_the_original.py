"""Durable executions over HTTP are the original's: bodies, headers, states and events, as recorded from 2.1.0."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.endpoints.durable_contract import play
from tests.live_server import serving
from tests.wrappers import source

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("durable_contract.json").read_text())


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    state = tmp_path_factory.mktemp("state")
    with serving(tmp_path_factory.mktemp("pipelines"), state_dir=str(state), durable_poll_ms=20) as server:
        server.serve("contract", source("durable_original"))
        yield play(server.client)


def contained(theirs: Any, ours: Any) -> Any:
    """The part of *ours* that *theirs* has too: objects of ours may have more fields."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return {key: contained(theirs[key], ours[key]) for key in theirs.keys() & ours.keys()}
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [contained(*pair) for pair in zip(theirs, ours, strict=True)]
    return ours


def places(detail: Any) -> Any:
    """Where the errors in *detail* are, if it says that; the words differ."""
    return [tuple(each for each in error["loc"] if isinstance(each, str)) for error in detail]


@pytest.mark.parametrize("label", RECORDED)
def test_a_client_of_the_original_gets_what_it_knows(played: dict[str, Any], label: str):
    theirs, ours = RECORDED[label], played[label]

    assert ours["status"] == theirs["status"]
    if theirs["status"] not in (422, 500):
        assert contained(theirs, ours) == theirs
    elif isinstance(theirs["body"]["detail"], list):
        assert places(ours["body"]["detail"]) == places(theirs["body"]["detail"])
