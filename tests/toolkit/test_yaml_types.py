"""Which socket types a JSON request can send, and which type several sockets have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pytest
from haystack.dataclasses import ChatMessage, Document
from haystack.tools.tool import Tool
from haystack.tools.toolset import Toolset
from haystack.utils import Secret

from hayhooks.toolkit.yaml_types import common_type, json_type, type_name


@dataclass
class Point:
    x: int


class Frame: ...


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (int, int),
        (Any, Any),
        (Annotated[int, "wrapped"], int),
        (Literal["a"], Literal["a"]),
        (list[Document], list[Document]),
        (str | Path | None, str | Path | None),
        (tuple[int, ...], tuple[int, ...]),
        (Point, Point),
        (Frame, Any),
        (list[Frame], list[Any]),
        (TypeVar("TypeVar"), Any),
        (Callable[[int], None] | None, None),
        (Callable, None),
        (Sequence[Tool | Toolset] | Toolset | None, None),
        (Secret, None),
        (list[Tool], None),
        (str | Secret, str),
    ],
    ids=str,
)
def test_json_type_removes_callbacks_tools_and_secrets(type_: Any, expected: Any):
    assert json_type(type_) == expected


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ([int, int], int),
        ([Any, str], str),
        ([Any, Any], Any),
        ([str | None, str], str),
        ([str | None, str | None], str | None),
        ([list[ChatMessage] | str, str | list[ChatMessage]], list[ChatMessage] | str),
        ([int, str], None),
        ([list[int], list[str]], None),
    ],
    ids=str,
)
def test_the_common_type_is_the_strictest(types: list[Any], expected: Any):
    assert common_type(types) == expected


def test_type_names_are_those_of_source_code():
    assert type_name(dict[str, list[Document]] | None) == "dict[str, list[Document]] | None"
    assert type_name(Callable[[int], None]) == "Callable[[int], None]"
    assert type_name(Literal["a"]) == "Literal['a']"
    assert type_name(Any) == "Any"
