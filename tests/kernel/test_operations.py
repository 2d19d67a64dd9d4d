"""What is described of a method whose arguments and results are TypedDicts."""

from typing import NotRequired, Unpack

from haystack.dataclasses import ChatMessage, Document
from typing_extensions import TypedDict

from hayhooks.http.json import encode
from hayhooks.http.types import HTTP_TYPES
from hayhooks.kernel.operations import inspect_method


class Found(TypedDict):
    documents: list[Document]
    score: NotRequired[float]


class Tree(TypedDict):
    message: NotRequired[ChatMessage]
    children: NotRequired[list["Tree"]]


Named = TypedDict("Named", {"my-text": str, "from": NotRequired[Document]})


def find(**arguments: Unpack[Named]) -> Found:
    return Found(documents=[Document(content=arguments["my-text"])])


def grow(tree: Tree) -> Tree:
    return tree


def test_unpacked_arguments_may_be_called_what_no_parameter_can_be():
    operation = inspect_method(find, HTTP_TYPES)

    assert operation.parameters == {"my-text", "from"}
    assert not operation.takes_any
    assert operation.arguments.json_schema()["required"] == ["my-text"]
    arguments = operation.arguments.validate_json(b'{"my-text": "x", "from": {"content": "y"}, "other": 1}')
    assert arguments == {"my-text": "x", "from": Document(content="y")}
    assert operation.accepted({"my-text": "x", "more": 1}) == {"my-text": "x"}


def test_haystacks_classes_in_a_typed_dict_are_written_by_their_own_means():
    operation = inspect_method(find, HTTP_TYPES)

    assert operation.result is not None
    schema = operation.result.json_schema()["properties"]["documents"]["items"]
    assert (schema["title"], schema["type"], "content" in schema["properties"]) == ("Document", "object", True)
    assert b'"content":"x"' in encode(Found(documents=[Document(content="x")]), operation)


def test_a_typed_dict_may_hold_itself():
    arguments = inspect_method(grow, HTTP_TYPES).arguments.validate_json(b'{"tree": {"children": [{"children": []}]}}')

    assert arguments == {"tree": {"children": [{"children": []}]}}
