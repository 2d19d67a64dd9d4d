"""What a pipeline in YAML answers: run, chat, responses, and the oldest form."""

import re
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.live_server import LiveServer, eventually, replace, serving
from tests.pipelines import ASK, CHAT, DOUBLE, OLDEST, PARTS

DOCUMENTS = """\
components: {read: {type: parts.Read}}
inputs: {documents: read.documents}
"""

DERIVED = """
from hayhooks import YAMLPipelineWrapper


class PipelineWrapper(YAMLPipelineWrapper):
    \"\"\"Talks louder.\"\"\"

    yaml_file = "pipeline.yml"

    def check(self):
        assert self.pipeline.run({"talk": {"messages": []}})

    def run_chat_completion(self, model, messages, body):
        return "mine"
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root, shared = tmp_path_factory.mktemp("pipelines"), tmp_path_factory.mktemp("shared")
    replace(shared / "parts.py", PARTS)
    asynchronous = CHAT.replace("parts.Talk", "parts.AsyncTalk")
    files = {"double": DOUBLE, "oldest": OLDEST, "ask": ASK, "talk": CHAT, "async": asynchronous, "read": DOCUMENTS}
    files["bare"] = CHAT.partition("inputs:")[0]
    files["flat"] = CHAT.replace("replies:", "reply:").replace("chat: messages", "answers: flat")
    for name, content in files.items():
        replace(root / f"{name}.yml", content)
    replace(root / "derived/pipeline_wrapper.py", DERIVED)
    replace(root / "derived/local.py", PARTS)
    replace(root / "derived/pipeline.yml", CHAT.replace("parts.Talk", "local.Talk"))
    with serving(root, additional_python_path=str(shared)) as server:
        eventually(lambda: len(server.status()["pipelines"]) == 9, "all to be served")
        yield server


@pytest.fixture
def openai(server: LiveServer):
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_oldest_form_has_its_own_metrics_endpoint(server: LiveServer):
    """The path of the oldest form is an endpoint of its own in the metrics."""
    for path in ("/oldest", "/oldest/"):
        assert server.client.post(path, json={}).status_code == 422

    metrics = server.client.get("/metrics").text

    labels = 'endpoint="/{name}",method="POST",pipeline="oldest",status="422"'
    assert f"hayhooks_requests_total{{{labels}}} 2.0" in metrics


def test_arguments_that_do_not_fit_are_told_by_their_names(server: LiveServer):
    response = server.client.post("/double/run", json={"times": "many"})

    assert response.status_code == 422
    assert [(error["type"], error["loc"]) for error in response.json()["detail"]] == [
        ("missing", ["body", "value"]),
        ("int_parsing", ["body", "times"]),
    ]


def test_documents_come_and_go_as_json(server: LiveServer):
    answer = server.run("read", documents=[{"content": "one", "meta": {"page": 1}}])

    assert answer["read"]["count"] == 1
    assert answer["read"]["documents"][0]["meta"] == {"page": 1}
    refused = server.client.post("/read/run", json={"documents": ["one"]})
    assert refused.json()["detail"][0]["msg"] == "Value error, a Document must be an object"


@pytest.mark.parametrize("path", ["/oldest", "/oldest/"])
def test_the_oldest_form_answers_with_components_outputs_at_its_own_path(server: LiveServer, path: str):
    body = {"double": {"value": 1}, "triple": {"value": 2, "times": 3}}

    assert server.client.post(path, json=body).json() == {"double": {"value": 2}, "triple": {"value": 6}}
    assert server.client.post("/oldest/run", json=body).json() == {
        "result": {"double": {"value": 2}, "triple": {"value": 6}}
    }


def test_the_oldest_form_refuses_what_a_component_cannot_take(server: LiveServer):
    response = server.client.post("/oldest", json={"double": {"value": "x"}})

    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["detail"]] == [["body", "double", "value"], ["body", "triple"]]
    assert server.client.get("/oldest").status_code == 405
    assert server.state("oldest")["endpoints"] == ["/oldest/run", "/oldest"]


def test_only_the_oldest_form_is_served_at_its_own_path(server: LiveServer):
    response = server.client.post("/double", json={})

    assert response.status_code == 404
    assert response.json()["detail"] == "'double' has no endpoint /; it has /double/run"


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/talk/run", {"messages": [{"role": "user", "content": "hello"}]}, "user: hello"),
        ("/async/run", {"messages": [{"role": "user", "content": "hello"}]}, "async: hello"),
        ("/derived/run", {"messages": [{"role": "user", "content": "hello"}]}, "user: hello"),
        ("/ask/run", {"question": "hello"}, "Q: hello"),
        ("/bare/run", {"talk": {"messages": [{"role": "user", "content": "hello"}]}}, "user: hello"),
        ("/bare", {"talk": {"messages": [{"role": "user", "content": "hello"}]}}, "user: hello"),
    ],
)
def test_run_streams_where_it_is_asked_to(server: LiveServer, path: str, body: Any, text: str):
    response = server.client.post(f"{path}?stream=true", json=body)
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.text == text

    events = server.client.post(f"{path}?stream=true", json=body, headers={"Accept": "text/event-stream"}).text
    assert "".join(re.findall("^data: (.*)$", events, re.MULTILINE)) == text
    assert "text/plain" not in server.client.post(path, json=body).headers["content-type"]


def test_a_pipeline_that_cannot_stream_says_so(server: LiveServer):
    response = server.client.post("/double/run?stream=true", json={"value": 1})
    assert response.status_code == 400
    assert response.json()["detail"] == "double has no stream: no component streams. Ask without ?stream=true"
    assert server.client.post("/talk/run?stream=true", json={"messages": 1}).status_code == 422


def test_the_api_pages_tell_what_can_be_streamed(server: LiveServer):
    paths = server.client.get("/openapi.json").json()["paths"]
    stream, double = paths["/talk/run"]["post"], paths["/double/run"]["post"]

    assert [(each["name"], each["in"], each["schema"]["type"]) for each in stream["parameters"]] == [
        ("stream", "query", "boolean")
    ]
    assert set(stream["responses"]["200"]["content"]) == {"application/json", "text/plain", "text/event-stream"}
    assert "parameters" not in double
    assert set(double["responses"]["200"]["content"]) == {"application/json"}


def test_flat_answers_are_keyed_by_the_names_of_outputs(server: LiveServer):
    assert server.run("flat", messages=[{"role": "user", "content": "hello"}]) == {"reply": "user: hello"}
    schemas = server.client.get("/openapi.json").json()["components"]["schemas"]
    reply = schemas["flat.Outputs"]["properties"]["reply"]
    assert reply["anyOf"] == [{"type": "string"}, {"type": "null"}]


def test_only_what_names_its_question_is_a_model(server: LiveServer, openai: OpenAI):
    assert [model.id for model in openai.models.list()] == ["ask", "async", "derived", "talk"]
    refused = server.client.post("/double/chat", json={"messages": [{"role": "user", "content": "x"}]})
    assert refused.status_code == 501


def test_a_text_input_gets_what_the_user_said_last(openai: OpenAI):
    messages: Any = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
    ]
    assert openai.chat.completions.create(model="ask", messages=messages).choices[0].message.content == "Q: last"


def test_a_list_of_messages_gets_the_whole_conversation(openai: OpenAI):
    messages: Any = [
        {"role": "system", "content": "be"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    answer = openai.chat.completions.create(model="talk", messages=messages).choices[0].message.content

    assert answer == "system: be / user: one / assistant: two / user: three"


def test_a_chat_is_streamed_chunk_by_chunk(openai: OpenAI):
    stream = openai.chat.completions.create(model="talk", messages=[{"role": "user", "content": "a b c"}], stream=True)
    parts = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]

    assert [part for part in parts if part] == ["user:", " a", " b", " c"]


def test_a_pipeline_of_async_components_answers_on_the_loop(server: LiveServer, openai: OpenAI):
    messages: Any = [{"role": "user", "content": "x"}]
    answer = openai.chat.completions.create(model="async", messages=messages).choices[0].message.content

    assert answer == "async: x"
    run = server.run("async", messages=messages)
    assert run["talk"]["replies"][0]["content"] == [{"text": "async: x"}]
    assert server.app.switch.live.snapshot.deployments["async"].operations["run_api_async"].on_loop


@pytest.mark.parametrize("model", ["ask", "talk", "async"])
def test_responses_are_answered_by_the_same_key(openai: OpenAI, model: str):
    response = openai.responses.create(model=model, input="hi")

    assert response.output_text == {"ask": "Q: hi", "talk": "user: hi", "async": "async: hi"}[model]
    with openai.responses.stream(model=model, input="hi") as stream:
        assert [event.type for event in stream][-1] == "response.completed"


def test_instructions_are_a_system_message(openai: OpenAI):
    items: Any = [{"role": "user", "content": "hi"}]

    for given in ("hi", items):
        assert openai.responses.create(model="talk", instructions="be", input=given).output_text == (
            "system: be / user: hi"
        )
    assert openai.responses.create(model="async", instructions="be", input="hi").output_text == "async: be / hi"
    assert openai.responses.create(model="ask", instructions="be", input="hi").output_text == "Q: hi"


def test_an_odd_old_message_does_not_block_a_chat(openai: OpenAI):
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "i'}}
    messages: Any = [
        {"role": "user", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": ""},
        {"role": "function", "name": "look", "content": "x"},
        {"role": "user", "content": "last"},
    ]
    answer = openai.chat.completions.create(model="talk", messages=messages).choices[0].message.content

    assert answer == "assistant: None / tool: None / tool: None / user: last"


def test_a_conversation_without_a_question_is_the_clients_fault(openai: OpenAI):
    with pytest.raises(BadRequestError, match="no user message has a text"):
        openai.chat.completions.create(model="ask", messages=[{"role": "system", "content": "x"}])
    nobody: Any = [{"role": "nobody", "content": "x"}]
    with pytest.raises(BadRequestError, match="cannot use 'messages'"):
        openai.chat.completions.create(model="talk", messages=nobody)


def test_a_wrapper_can_derive_from_it(server: LiveServer, openai: OpenAI):
    messages: Any = [{"role": "user", "content": "x"}]

    assert openai.chat.completions.create(model="derived", messages=messages).choices[0].message.content == "mine"
    assert openai.responses.create(model="derived", input="x").output_text == "user: x"
    assert server.run("derived", messages=messages)["talk"]["replies"][0]["content"] == [{"text": "user: x"}]
    assert server.state("derived")["description"] == "Talks louder."


def test_a_derived_wrapper_is_told_where_its_yaml_is_wrong(root: Path):
    replace(root / "bad/pipeline_wrapper.py", DERIVED)
    replace(root / "bad/pipeline.yml", CHAT.replace("local.Talk", "parts.Talk").replace("talk.replies", "talk.reply"))
    replace(root / "bad/parts.py", PARTS)
    replace(root / "none/pipeline_wrapper.py", DERIVED.replace("    yaml_file", "    other"))
    with serving(root) as server:
        eventually(lambda: len(server.status()["deployments"]) == 2 and server.state("none")["error"])
        error = eventually(lambda: server.state("bad")["error"])
        assert "pipeline.yml:7: outputs.replies names 'talk.reply': component 'talk' has no output 'reply'" in error
        assert f"at {root}/bad/pipeline.yml:7: replies: talk.reply" in error
        assert "set yaml_file = 'pipeline.yml' in the class" in server.state("none")["error"]
