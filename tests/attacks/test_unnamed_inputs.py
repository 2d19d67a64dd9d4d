"""A YAML without ``inputs``: a request sends values, never code and never the path of a file of the server."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live_server import LiveServer, eventually, replace, serving

SECRET = "the server's secret"

COMPONENTS = '''
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NewType

from haystack import component
from haystack.dataclasses import ByteStream, Document

Place = NewType("Place", Path)


@dataclass
class Job:
    place: Path


@dataclass
class Tree:
    children: "list[Tree]"


@component
class Read:
    @component.output_types(text=str)
    def run(
        self,
        like: os.PathLike | None = None,
        new: Place | None = None,
        job: Job | None = None,
        by_name: dict[str, str | Path] | None = None,
        any_path: Path | str | bytes | int | None = None,
        file_paths: list[str] | None = None,
        anything: list[Document] | list[ByteStream] | None = None,
        profile: str = "",
        tree: Tree | None = None,
    ):
        given = next((value for value in (like, new, job, by_name, any_path, file_paths) if value is not None), None)
        return {"text": profile if given is None else open(given).read()}


@component
class Show:
    """As Haystack's DocumentToImageContent, which needs more packages."""

    def __init__(self, file_path_meta_field: str = "file_path", root_path: str | None = None):
        self.file_path_meta_field = file_path_meta_field
        self.root_path = root_path

    @component.output_types(texts=list[str])
    def run(self, documents: list[Document]):
        paths = [Path(self.root_path or "", document.meta[self.file_path_meta_field]) for document in documents]
        return {"texts": [path.read_text() for path in paths]}
'''

PIPELINES = {
    "convert": "conv: {type: haystack.components.converters.txt.TextFileToDocument}",
    "route": """
  router:
    type: haystack.components.routers.file_type_router.FileTypeRouter
    init_parameters: {mime_types: [text/plain]}""",
    "prompt": """
  prompt:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: "{{ path }} and {{ pattern }}"}""",
    "chat_prompt": """
  prompt:
    type: haystack.components.builders.chat_prompt_builder.ChatPromptBuilder
    init_parameters: {template: "{% message role='user' %}{{ question }}{% endmessage %}"}""",
    "validate": """
  check:
    type: haystack.components.validators.json_schema.JsonSchemaValidator
    init_parameters: {json_schema: {type: object}}""",
    "answers": "build: {type: haystack.components.builders.answer_builder.AnswerBuilder, init_parameters: {}}",
    "join": """
  first: {type: haystack.components.joiners.branch.BranchJoiner, init_parameters: {type_: "list[str]"}}
  second: {type: haystack.components.joiners.branch.BranchJoiner, init_parameters: {type_: "list[str]"}}
  conv: {type: haystack.components.converters.txt.TextFileToDocument}""",
    "pictures": """
  join: {type: haystack.components.joiners.document_joiner.DocumentJoiner, init_parameters: {}}
  conv: {type: haystack.components.converters.txt.TextFileToDocument}
  show:
    type: reading.Show
    init_parameters: {file_path_meta_field: place}""",
    "read": "read: {type: reading.Read}",
}

CONNECTIONS = {
    "join": [("first.value", "second.value"), ("second.value", "conv.sources")],
    "pictures": [("conv.documents", "join.documents"), ("join.documents", "show.documents")],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    root, shared = tmp_path_factory.mktemp("pipelines"), tmp_path_factory.mktemp("shared")
    replace(shared / "reading.py", COMPONENTS)
    for name, components in PIPELINES.items():
        connections = ", ".join(f"{{sender: {one}, receiver: {other}}}" for one, other in CONNECTIONS.get(name, ()))
        replace(root / f"{name}.yml", f"components:\n  {components.strip()}\nconnections: [{connections}]\n")
    named = f"components:\n  {PIPELINES['convert']}\ninputs: {{files: conv.sources}}\n"
    replace(root / "named.yml", named)
    with serving(root, additional_python_path=str(shared)) as server:
        eventually(lambda: len(server.status()["pipelines"]) == len(PIPELINES) + 1, "all to be served")
        yield server


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("secret") / "secret.json"
    path.write_text(json.dumps({"const": SECRET}))
    return path


def refused(server: LiveServer, pipeline: str, body: dict[str, Any], *place: str) -> str:
    """Check that *body* is refused at *place*, at both paths of the pipeline; return the reason."""
    for path in (f"/{pipeline}", f"/{pipeline}/run"):
        response = server.client.post(path, json=body)
        assert response.status_code == 422, response.text
        assert SECRET not in response.text
        errors = response.json()["detail"]
        assert [error["loc"] for error in errors] == [["body", *place]]
    reason: str = errors[0]["msg"]
    return reason


def test_a_path_is_refused_by_name_and_inline_content_is_taken(server: LiveServer, secret: Path):
    for sources in ([str(secret)], str(secret), [{"data": "x"}, str(secret)]):
        reason = refused(server, "convert", {"conv": {"sources": sources}}, "conv", "sources")
        assert "conv.sources" in reason
        assert "inputs" in reason
    refused(server, "route", {"router": {"sources": [str(secret)]}}, "router", "sources")

    inline = [{"data": "one", "mime_type": "text/plain"}, {"data": [116, 119, 111]}]
    documents = server.run("convert", conv={"sources": inline})["conv"]["documents"]
    assert [document["content"] for document in documents] == ["one", "two"]


def test_a_joiner_does_not_pass_a_path_on(server: LiveServer, secret: Path):
    refused(server, "join", {"first": {"value": [str(secret)]}}, "first", "value")


def test_a_socket_that_the_yaml_names_takes_paths(server: LiveServer, secret: Path):
    documents = server.run("named", files=[str(secret)])["conv"]["documents"]

    assert SECRET in documents[0]["content"]


@pytest.mark.parametrize(
    ("pipeline", "component", "socket"),
    [
        ("prompt", {"path": 1, "pattern": 2}, "template"),
        ("chat_prompt", {"question": "x"}, "template"),
        ("validate", {"messages": [{"role": "user", "content": "{}"}]}, "error_template"),
        ("answers", {"query": "x", "replies": ["y"]}, "pattern"),
        ("answers", {"query": "x", "replies": ["y"]}, "reference_pattern"),
    ],
)
def test_what_a_component_would_execute_is_refused(
    server: LiveServer, pipeline: str, component: dict[str, Any], socket: str
):
    name = {"validate": "check", "answers": "build"}.get(pipeline, "prompt")
    body = {name: {**component, socket: "{{ ('a' * 500000000) | length }}"}}

    assert f"{name}.{socket}" in refused(server, pipeline, body, name, socket)
    assert server.client.post(f"/{pipeline}", json={name: {**component, socket: None}}).status_code == 200


def test_a_schema_that_refers_to_a_file_is_refused(server: LiveServer, secret: Path):
    messages = [{"role": "assistant", "content": "{}"}]
    body = {"check": {"messages": messages, "json_schema": {"$ref": secret.as_uri()}}}

    refused(server, "validate", body, "check", "json_schema")


def test_variables_of_a_template_may_have_any_name(server: LiveServer):
    assert server.run("prompt", prompt={"path": "here", "pattern": "x"}) == {"prompt": {"prompt": "here and x"}}


META = {"place": "/etc/hostname"}


@pytest.mark.parametrize(
    ("component", "inputs", "socket"),
    [
        ("join", {"documents": [[{"content": "x", "meta": META}]]}, "documents"),
        ("join", {"documents": [[{"content": "x", **META}]]}, "documents"),
        ("conv", {"sources": [{"data": "x"}], "meta": META}, "meta"),
        ("conv", {"sources": [{"data": "x", "meta": META}]}, "sources"),
    ],
)
def test_a_document_does_not_lead_a_component_to_a_file(
    server: LiveServer, component: str, inputs: dict[str, Any], socket: str
):
    """A component reads the file that a document's metadata name, wherever in the pipeline they enter."""
    body = {"conv": {"sources": []}, component: inputs}

    assert "'place'" in refused(server, "pictures", body, component, socket)


def test_every_type_with_a_path_is_refused(server: LiveServer, secret: Path):
    values: dict[str, Any] = {
        "like": str(secret),
        "new": str(secret),
        "job": {"place": str(secret)},
        "by_name": {"x": str(secret)},
        "any_path": str(secret),
        "file_paths": [str(secret)],
        "anything": [str(secret)],
    }
    for socket, value in values.items():
        refused(server, "read", {"read": {socket: value}}, "read", socket)
    refused(server, "read", {"read": {"any_path": 0}}, "read", "any_path")  # a descriptor
    assert server.run("read", read={"profile": "x", "anything": [{"data": "y"}]}) == {"read": {"text": "x"}}


def test_the_schema_shows_what_can_be_sent(server: LiveServer):
    schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
    shown = {name: set(schema["properties"]) for name, schema in schemas.items() if name.endswith("Inputs")}

    assert shown["convert.ConvInputs"] == {"sources", "meta"}
    assert shown["prompt.PromptInputs"] == {"path", "pattern", "template_variables"}
    assert shown["read.ReadInputs"] == {"anything", "profile", "tree"}


def test_content_does_not_choose_a_codec_that_takes_minutes(server: LiveServer):
    for encoding in ("punycode", "PUNYCODE", "idna"):
        source = {"data": "a" * 1_000_000, "meta": {"encoding": encoding}}
        response = server.client.post("/convert", json={"conv": {"sources": [source]}})
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "conv", "sources", 0])
    latin = {"data": [233], "meta": {"encoding": "latin-1"}}
    assert server.run("convert", conv={"sources": [latin]})["conv"]["documents"][0]["content"] == "é"


def test_a_number_is_no_content(server: LiveServer):
    """``bytes(n)`` would be n zeros."""
    values: list[Any] = [10**12, [256], [-1], None, {}]
    for data in values:
        response: httpx.Response = server.client.post("/convert", json={"conv": {"sources": [{"data": data}]}})
        assert response.status_code == 422, response.text
        blob = {"content": "x", "blob": {"data": data}}
        body = {"conv": {"sources": []}, "join": {"documents": [[blob]]}}
        response = server.client.post("/pictures", json=body)
        assert response.status_code == 422, response.text
