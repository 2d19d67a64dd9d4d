"""Agents of A2A, by the official client: cards, messages, tasks."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from a2a.client import Client
from a2a.helpers import new_data_part, new_raw_part, new_url_part
from a2a.types import CancelTaskRequest, GetTaskRequest, ListTasksRequest, SubscribeToTaskRequest, Task, TaskState
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError

from tests.integrations.a2a_client import all_of, request, send, state_of, stream, text_of, with_client
from tests.live_server import LiveServer, SharedServer, serving
from tests.pipelines import ASK
from tests.wrappers import source

AGENT = source("agent")
CARD = ".well-known/agent-card.json"


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """The file that the agent waits for when it is asked to."""
    return tmp_path / "gate"


@pytest.fixture
def agent(server: LiveServer, gate: Path) -> str:
    """The URL of an agent, "it"."""
    server.serve("it", AGENT, gate=str(gate))
    return f"{server.url}/it"


def with_attribute(line: str) -> str:
    """The agent with *line* in its wrapper."""
    return AGENT.replace('    """Answers."""\n', f'    """Answers."""\n\n    {line}\n')


def rpc(server: LiveServer, path: str, method: str, params: object, **headers: str) -> httpx.Response:
    """The answer to a JSON-RPC request of protocol 1.0."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return server.client.post(path, json=body, headers={"A2A-Version": "1.0", **headers})


def open_gate(gate: Path) -> None:
    """Let the pipeline that waits go on."""
    gate.touch()


def is_there(path: Path) -> bool:
    """Whether the wrapper has left *path*."""
    return path.exists()


def message(text: str = "hello") -> dict[str, object]:
    """The parameters that send *text*."""
    return {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": text}]}}


# ---------------------------------------------------------------------------------------------------- cards


def test_a_card_tells_of_the_agent(server: LiveServer, agent: str) -> None:
    """In the shape of protocol 1.0, and in that of 0.3 for older clients."""
    card = server.client.get(f"/it/{CARD}").json()
    assert (card["name"], card["description"], card["version"]) == ("it", "Answers.", server.state("it")["revision"])
    assert card["capabilities"] == {"streaming": True, "pushNotifications": False}
    assert card["supportedInterfaces"][0]["url"] == card["url"] == f"{agent}/a2a"
    assert [skill["description"] for skill in card["skills"]] == ["Answers."]


def test_a_wrapper_has_its_own_fields(server: LiveServer) -> None:
    """In its card."""
    own = {"name": "Desk", "version": "7", "skills": [{"id": "trips", "tags": ["travel"], "examples": ["Rome"]}]}
    server.serve("it", with_attribute(f"a2a_card = {own!r}"), gate="")
    card = server.client.get(f"/it/{CARD}").json()
    assert (card["name"], card["version"], card["description"]) == ("Desk", "7", "Answers.")
    skill = {"id": "trips", "name": "Desk", "description": "Answers.", "tags": ["travel"], "examples": ["Rome"]}
    assert card["skills"] == [skill]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("{'nmae': 'Desk'}", "a2a_card has no field 'nmae'; did you mean 'name'?"),
        ("{'name': 'Desk', 'zebra': 1}", "a2a_card has no field 'zebra'; it may have name, description, "),
        ("{'skills': [{'id': 'trips', 'tgas': []}]}", "a2a_card.skills[0] has no field 'tgas'; did you mean 'tags'?"),
        ("{'skills': [{'tags': 'travel'}]}", "tags must be a list and is travel at a2a_card.skills[0]"),
        (
            "{'provider': {'url': 7}}",
            "a2a_card: Failed to parse provider field: Failed to parse url field: expected str",
        ),
        (  # a property that fails when a client asks
            "property(lambda self: __import__('sys').exit(3) if __import__('asyncio')._get_running_loop() else None)",
            "a2a_card: SystemExit: 3",
        ),
    ],
)
def test_a_wrong_card_is_told_once_and_leaves_the_agent(
    server: LiveServer, logged: list[str], wrong: str, told: str
) -> None:
    """It is listed, and has the card that it has without ``a2a_card``."""
    server.serve("it", with_attribute(f"a2a_card = {wrong}"), gate="")
    for _ in range(2):
        (card,) = server.client.get("/a2a/agents").json()["agents"]
        assert (card["name"], card["skills"][0]["id"]) == ("it", "chat")
        assert server.client.get(f"/it/{CARD}").json() == card
    (line,) = (line for line in logged if "a2a_card" in line)
    assert line.startswith("ERROR it: ")
    assert told in line
    assert line.endswith(": its card is made without a2a_card")


def test_the_older_path_of_the_card_is_served(server: LiveServer, agent: str) -> None:
    card = server.client.get(f"/it/{CARD}").json()
    for path in ("/it/.well-known/agent.json", "/.well-known/agent.json"):
        assert server.client.get(path).json() == card


def test_a_wrong_path_is_told_that_of_the_agent(server: LiveServer, agent: str) -> None:
    answer = server.client.post("/it", json={})
    assert (answer.status_code, answer.json()["detail"].rpartition(", ")[2]) == (404, "/it/a2a")


def test_a_client_that_has_the_card_is_told_so(server: LiveServer, agent: str) -> None:
    """Until another revision serves."""
    etag = server.client.get(f"/it/{CARD}").headers["etag"]
    assert server.client.get(f"/it/{CARD}", headers={"If-None-Match": etag}).status_code == 304
    server.serve("it", AGENT, gate="elsewhere")
    assert server.client.get(f"/it/{CARD}", headers={"If-None-Match": etag}).status_code == 200


def test_the_cards_are_listed(own_server: LiveServer) -> None:
    """Of those that can chat, and do not want to be left out; the card of the only one is the server's."""
    own_server.serve("one", AGENT, gate="")
    own_server.serve("run-only", source("tool"))
    own_server.serve("left-out", with_attribute("a2a = False"), gate="")
    own_server.serve("as-upstream", with_attribute("skip_a2a = True"), gate="")
    assert own_server.client.get(f"/{CARD}").json()["name"] == "one"
    reasons = {"left-out": "its wrapper has a2a = False", "as-upstream": "its wrapper has a2a = False"}
    for name in ("run-only", "left-out", "as-upstream"):
        told = f"'{name}' is not an agent of A2A: {reasons.get(name, 'it cannot chat')}"
        for answer in (own_server.client.get(f"/{name}/{CARD}"), own_server.client.post(f"/{name}/a2a")):
            assert (answer.status_code, answer.json()["detail"]) == (404, told)

    own_server.serve("two", AGENT, gate="")
    cards = own_server.client.get("/a2a/agents").json()["agents"]
    assert [card["name"] for card in cards] == ["one", "two"]
    answer = own_server.client.get(f"/{CARD}")
    assert answer.status_code == 404
    assert "has 2 agents" in answer.json()["detail"]
    own_server.remove("two")
    own_server.eventually(lambda: own_server.client.get(f"/{CARD}").status_code == 200)


def test_a_yaml_pipeline_can_be_an_agent(server: LiveServer) -> None:
    """With the key ``chat``; one without is none, and is called at its own path as ever."""
    (server.root / "yam.yml").write_text(ASK)
    server.eventually(lambda: server.state("yam")["state"] == "serving")
    assert "you" in text_of(send(f"{server.url}/yam", "you"))
    (server.root / "yam.yml").write_text(f"{ASK}a2a_card:\n  name: Desk\n")
    server.eventually(lambda: server.client.get(f"/yam/{CARD}").json()["name"] == "Desk")
    for without in (ASK.replace("chat: question\n", ""), f"{ASK}a2a: false\n", f"{ASK}skip_a2a: true\n"):
        (server.root / "yam.yml").write_text(without)
        server.eventually(lambda: server.client.get(f"/yam/{CARD}").status_code == 404)
        (server.root / "yam.yml").write_text(ASK)
        server.eventually(lambda: server.client.get(f"/yam/{CARD}").status_code == 200)


def test_keys_hold(root: Path) -> None:
    """A client sees the agents that it may call, and its own tasks."""
    keys = root.parent / "keys"
    keys.write_text("one:secret1:call=it\nother:secret2:call=it\nthird:secret3:call=another\n")
    with serving(root, api_keys_file=keys) as server:
        server.write("it", AGENT, gate="")
        bearer = {"Authorization": "Bearer secret1"}
        card = server.eventually(lambda: server.client.get(f"/it/{CARD}", headers=bearer).raise_for_status().json())
        assert server.client.get(f"/it/{CARD}").status_code == 401
        assert card["securitySchemes"]["bearer"]["httpAuthSecurityScheme"]["scheme"] == "Bearer"
        third = {"Authorization": "Bearer secret3"}
        assert server.client.get(f"/it/{CARD}", headers=third).status_code == 403
        assert rpc(server, "/it/a2a", "SendMessage", message(), **third).status_code == 403
        assert server.client.get("/a2a/agents", headers=third).json() == {"agents": []}
        assert server.client.get("/.well-known/agent.json", headers=bearer).json() == card
        assert len(server.client.get("/a2a/agents", headers=bearer).json()["agents"]) == 1

        task = send(f"{server.url}/it", "hello", key="secret1")
        assert state_of(task) == "completed"

        async def get(client: Client) -> Task:
            return await client.get_task(GetTaskRequest(id=task.id))

        assert with_client(f"{server.url}/it", get, key="secret1").id == task.id
        with pytest.raises(TaskNotFoundError):
            with_client(f"{server.url}/it", get, key="secret2")


# ---------------------------------------------------------------------------------------------------- messages


def test_a_message_is_answered_by_a_task(agent: str) -> None:
    task = send(agent, "hello")
    assert (state_of(task), text_of(task)) == ("completed", "you said hello ")
    assert [len(artifact.parts) for artifact in task.artifacts] == [1]


def test_a_stream_follows_the_states(agent: str) -> None:
    responses = stream(agent, "hello")
    kinds = [response.WhichOneof("payload") for response in responses]
    assert kinds[:2] == ["task", "status_update"]
    assert kinds[-1] == "status_update"
    assert responses[1].status_update.status.state == TaskState.TASK_STATE_WORKING
    assert responses[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
    updates = [response.artifact_update for response in responses[2:-1]]
    assert "".join(update.artifact.parts[0].text for update in updates) == "you said hello "
    assert [update.append for update in updates] == [False] + [True] * (len(updates) - 1)
    assert [update.last_chunk for update in updates] == [False] * (len(updates) - 1) + [True]


def test_text_that_comes_at_once_is_one_update(agent: str) -> None:
    """An update copies the task, so thousands of small ones would be work for seconds."""
    responses = stream(agent, "word " * 2_000)
    assert len(responses) < 500
    texts = [part.text for response in responses for part in response.artifact_update.artifact.parts]
    assert "".join(texts).count("word ") == 2_000


def test_text_before_a_pause_is_sent(agent: str, gate: Path) -> None:
    async def talk(client: Client) -> str:
        text = ""
        async for response in client.send_message(request("pause")):
            text += "".join(part.text for part in response.artifact_update.artifact.parts)
            if text == "one two ":
                open_gate(gate)
        return text

    assert with_client(agent, talk) == "one two "


@pytest.mark.parametrize("path", ["/it/a2a", "/it/"])
def test_clients_of_protocol_0_3_are_served(server: LiveServer, agent: str, path: str) -> None:
    """At the path of the original too."""
    sent = {"message": {"messageId": "1", "role": "user", "parts": [{"kind": "text", "text": "hello"}]}}
    result = rpc(server, path, "message/send", sent, **{"A2A-Version": ""}).json()["result"]
    assert result["status"]["state"] == "completed"
    assert result["artifacts"][0]["parts"][0]["text"] == "you said hello "
    events = rpc(server, path, "message/stream", sent, **{"A2A-Version": ""}).text.split("\r\n\r\n")
    assert '"kind":"status-update"' in events[-2]
    assert '"final":true' in events[-2]


@pytest.mark.parametrize(
    ("method", "version", "told"),
    [
        ("SendMessage", "", "SendMessage is of version 1.0 of the protocol: send the header A2A-Version: 1.0"),
        ("GetTask", "0.3", "GetTask is of version 1.0 of the protocol: send the header A2A-Version: 1.0, not '0.3'"),
        ("SendStreamingMessage", "x", "send the header A2A-Version: 1.0, not 'x'"),
        (
            "message/send",
            "1.0",
            "message/send is of version 0.3 of the protocol: send the header A2A-Version: 0.3, not",
        ),
        ("message/stream", "2", "send the header A2A-Version: 0.3, not '2'"),
    ],
)
def test_a_wrong_version_is_told_the_header(
    server: LiveServer, agent: str, method: str, version: str, told: str
) -> None:
    answer = rpc(server, "/it/a2a", method, message(), **{"A2A-Version": version}).json()
    assert (answer["id"], answer["error"]["code"]) == (1, -32009)
    assert told in answer["error"]["message"]


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.3", "v1.1"])
def test_versions_that_differ_a_little_are_served(server: LiveServer, agent: str, version: str) -> None:
    assert "result" in rpc(server, "/it/a2a", "SendMessage", message(), **{"A2A-Version": version}).json()


@pytest.mark.parametrize("part", [{"txt": "x"}, {}, "x", {"text": None}, {"metadata": {"text": "x"}}, None, []])
@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage", "message/send", "message/stream"])
def test_a_part_that_is_none_is_an_error_that_names_it(
    server: LiveServer, agent: str, method: str, part: object
) -> None:
    version, kinds = ("0.3", "text, file, data") if "/" in method else ("1.0", "text, raw, url, data")
    sent = {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "x"}, part]}}
    error = rpc(server, "/it/a2a", method, sent, **{"A2A-Version": version}).json()["error"]
    wanted = f"params.message.parts[1] is {json.dumps(part)}: it must be an object with one of {kinds}"
    assert (error["code"], error["message"]) == (-32602, wanted)


def test_a_part_of_the_other_version_is_an_error(server: LiveServer, agent: str) -> None:
    sent = {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"file": {"bytes": "eA=="}}]}}
    error = rpc(server, "/it/a2a", "SendMessage", sent).json()["error"]
    assert "with one of text, raw, url, data" in error["message"]


def test_files_and_data_are_parts_of_the_message(agent: str) -> None:
    """In OpenAI's shapes; the task keeps no bytes of them."""
    task = send(
        agent,
        "look",
        new_raw_part(b"\x89PNG", media_type="image/png"),
        new_raw_part(b"RIFF", media_type="audio/wav"),
        new_raw_part(b"%PDF", media_type="application/pdf", filename="a.pdf"),
        new_url_part("http://x/y.png", media_type="image/png"),
        new_url_part("http://x/y.pdf", media_type="application/pdf", filename="y.pdf"),
        new_data_part({"a": [1]}),
    )
    text = text_of(task)
    for part in (
        "{'type': 'text', 'text': 'look'}",
        "{'url': 'data:image/png;base64,iVBORw=='}",
        "{'type': 'input_audio', 'input_audio': {'data': 'UklGRg==', 'format': 'wav'}}",
        "{'filename': 'a.pdf', 'file_data': 'data:application/pdf;base64,JVBERg=='}",
        "{'type': 'image_url', 'image_url': {'url': 'http://x/y.png'}}",
        "{'filename': 'y.pdf', 'file_url': 'http://x/y.pdf'}",
        """{'type': 'text', 'text': '{"a": [1.0]}'}""",
    ):
        assert part in text
    assert [part.raw for part in task.history[0].parts] == [b""] * 7


def test_answers_have_data_and_files(agent: str) -> None:
    """An event of the pipeline is told while the task works, or is an artifact of its own."""
    responses = stream(agent, "events")
    (event,) = (each.status_update.status.message for each in responses if each.status_update.status.message.parts)
    assert "thinking" in str(event.parts[0].data)
    names = [response.artifact_update.artifact.name for response in responses if response.HasField("artifact_update")]
    assert list(dict.fromkeys(names)) == ["figures", "response"]


def test_a_context_is_a_conversation(agent: str) -> None:
    """The next message of a context has those before it; another one has not."""
    context = send(agent, "hello").context_id
    assert text_of(send(agent, "history", context_id=context)) == (
        "user: hello | assistant: you said hello  | user: history"
    )
    assert text_of(send(agent, "history")) == "user: history"


def test_the_wrapper_is_told_of_the_task(agent: str) -> None:
    task = send(agent, "body")
    assert f"'task_id': '{task.id}'" in text_of(task)
    assert f"'messageId': '{task.history[0].message_id}'" in text_of(task)


@pytest.mark.parametrize(("asked", "reason"), [("fail", "no luck today"), ("refuse", "no luck at all")])
def test_an_error_is_a_failed_task(agent: str, asked: str, reason: str) -> None:
    """Before the first item as after it."""
    task = send(agent, asked)
    assert state_of(task) == "failed"
    assert reason in task.status.message.parts[0].text
    final = stream(agent, asked)[-1].status_update.status
    assert final.state == TaskState.TASK_STATE_FAILED
    assert reason in final.message.parts[0].text


def test_limits_hold(root: Path, gate: Path) -> None:
    """A message beyond them is a failed task that says so, and one that takes too long is one; others are asked for."""
    with serving(root, concurrency=1, queue_size=0, request_timeout=1) as server:
        server.serve("it", AGENT, gate=str(gate))

        async def talk(client: Client) -> list[Task]:
            begun = await anext(aiter(client.send_message(request("wait", returns_at_once=True))))
            (refused,) = await all_of(client.send_message(request("hello")))
            while True:
                task = await client.get_task(GetTaskRequest(id=begun.task.id))
                if state_of(task) == "failed":
                    return [refused.task, task]
                await asyncio.sleep(0.02)

        refused, late = with_client(f"{server.url}/it", talk, streaming=False)
        assert state_of(refused) == "failed"
        assert "1 request" in text_of(refused)
        assert "request timeout of 1 s" in late.status.message.parts[0].text
        final = stream(f"{server.url}/it", "wait")[-1].status_update.status
        assert "request timeout of 1 s" in final.message.parts[0].text


# ---------------------------------------------------------------------------------------------------- tasks


async def begun(client: Client) -> Task:
    """A task that waits, and has its first text."""
    async for response in client.send_message(request("wait")):
        if response.HasField("artifact_update"):
            return await client.get_task(GetTaskRequest(id=response.artifact_update.task_id))
    raise AssertionError


def test_a_task_runs_on_without_its_client(agent: str, gate: Path) -> None:
    """It is asked for, listed, and subscribed to by the next one."""
    task = with_client(agent, begun)
    assert (state_of(task), text_of(task)) == ("working", "first ")

    async def follow(client: Client) -> Task:
        listed = await client.list_tasks(ListTasksRequest(context_id=task.context_id))
        assert [each.id for each in listed.tasks] == [task.id]
        async for response in client.subscribe(SubscribeToTaskRequest(id=task.id)):
            if response.HasField("task"):
                open_gate(gate)
        return await client.get_task(GetTaskRequest(id=task.id))

    ended = with_client(agent, follow)
    assert (state_of(ended), text_of(ended)) == ("completed", "first second")


def test_a_cancelled_task_stops_its_pipeline(server: LiveServer, agent: str, gate: Path) -> None:
    async def talk(client: Client) -> Task:
        task = await begun(client)
        cancelled = await client.cancel_task(CancelTaskRequest(id=task.id))
        with pytest.raises(TaskNotCancelableError):
            await client.cancel_task(CancelTaskRequest(id=task.id))
        return cancelled

    assert state_of(with_client(agent, talk)) == "canceled"
    server.eventually(lambda: gate.with_name("closed").exists(), "the generator to be closed")


def test_a_stream_tells_of_the_cancel(agent: str) -> None:
    async def talk(client: Client) -> list[int]:
        states: list[int] = []
        async for response in client.send_message(request("wait")):
            states.append(response.status_update.status.state)
            if response.HasField("artifact_update") and response.artifact_update.artifact.parts[0].text == "first ":
                await client.cancel_task(CancelTaskRequest(id=response.artifact_update.task_id))
        return states

    assert with_client(agent, talk)[-1] == TaskState.TASK_STATE_CANCELED


def test_tasks_of_one_agent_are_unknown_to_another(server: LiveServer, agent: str) -> None:
    server.serve("other", AGENT, gate="")
    task = send(agent, "hello")

    async def get(client: Client) -> Task:
        return await client.get_task(GetTaskRequest(id=task.id))

    assert with_client(agent, get).id == task.id
    with pytest.raises(TaskNotFoundError):
        with_client(f"{server.url}/other", get)


def test_a_task_outlives_a_deploy(server: LiveServer, agent: str) -> None:
    """And what is gone has no agent."""
    task = send(agent, "hello")
    server.serve("it", AGENT.replace("you said", "you wrote"), gate="")

    async def get(client: Client) -> Task:
        return await client.get_task(GetTaskRequest(id=task.id))

    assert text_of(with_client(agent, get)) == "you said hello "
    assert text_of(send(agent, "hello")) == "you wrote hello "


def test_a_deploy_does_not_wait_for_a_subscriber(server: LiveServer, agent: str, gate: Path) -> None:
    """The request that runs the pipeline holds the old revision, and the client's holds none."""
    server.serve("it", with_attribute("def teardown(self): gate.with_name('torn').touch()"), gate=str(gate))

    async def talk(client: Client) -> bool:
        responses = client.send_message(request("wait"))
        async for response in responses:
            if response.HasField("artifact_update"):
                break
        await asyncio.to_thread(server.serve, "it", AGENT, gate=str(gate))
        held = not is_there(gate.with_name("torn"))
        open_gate(gate)
        await all_of(responses)
        return held

    assert with_client(agent, talk)
    server.eventually(lambda: gate.with_name("torn").exists(), "the old revision to be torn down")


def test_a_message_is_a_request_to_the_chat(server: LiveServer, agent: str) -> None:
    """Which is counted once, with the id of the client's."""
    sent = rpc(server, "/it/a2a", "SendMessage", message(), **{"X-Request-Id": "of-the-client"})
    assert sent.json()["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert sent.headers["x-request-id"] == "of-the-client"
    counted = {path for path, _, _ in server.app.metrics.of("it").answers}  # type: ignore[union-attr]  # metrics are on
    assert "/{name}/chat" in counted
    assert server.app.metrics.of("it").in_flight == 0  # type: ignore[union-attr]  # as above
