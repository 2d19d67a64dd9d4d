"""Hostile clients of agents: what is no message, who is not there, tasks that nobody waits for."""

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest
from a2a.auth.user import UnauthenticatedUser
from a2a.server.context import ServerCallContext
from a2a.server.tasks.task_manager import append_artifact_to_task
from a2a.types import Artifact, ListTasksRequest, Part, Task, TaskArtifactUpdateEvent, TaskState, TaskStatus

from hayhooks.integrations.a2a_tasks import ANSWER, MAX_KEPT, MAX_KEPT_BYTES, Conversations, Tasks
from tests.attacks.measuring import Attacked
from tests.integrations.a2a_client import send, text_of
from tests.live_server import eventually

HEADERS = {"A2A-Version": "1.0", "Content-Type": "application/json"}


def rpc(method: object, params: object, id: object = 1) -> bytes:
    """A request of JSON-RPC."""
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()


def message(*parts: object, **fields: object) -> dict[str, Any]:
    """The parameters that send a message."""
    return {"message": {"messageId": "1", "role": "ROLE_USER", "parts": list(parts), **fields}}


def nested(depth: int) -> Any:
    """Lists within lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


MALFORMED = {
    b"": -32700,
    b"{": -32700,
    b"[]": -32700,
    b"null": -32700,
    b'"x"': -32700,
    b"\xff\xfe": -32700,
    b"[" * 100_000: -32700,
    b"{}": -32600,
    b'{"jsonrpc": "1.0", "id": 1, "method": "GetTask"}': -32600,
    rpc("GetTask", {}, id={}): -32600,
    rpc("GetTask", {}, id=True): -32600,
    rpc(5, {}): -32600,
    rpc("", {}): -32600,
    rpc("no/such", {}): -32601,
    rpc("__class__", {}): -32601,
    rpc("GetTask", []): -32602,
    rpc("GetTask", {}): -32602,
    rpc("GetTask", {"id": 5}): -32602,
    rpc("SendMessage", {}): -32602,
    rpc("SendMessage", message()): -32602,
    rpc("SendMessage", message({"raw": 5})): -32602,
    rpc("SendMessage", message({"data": nested(150)})): -32602,
    rpc("SendMessage", {**message({"text": "x"}), "configuration": {"historyLength": -1}}): -32602,
    rpc("GetTask", {"id": "../it"}): -32001,
    rpc("CancelTask", {"id": "0"}): -32001,
    rpc("SubscribeToTask", {"id": "0"}): -32001,
    rpc("SendMessage", message({"text": "x"}, taskId="0")): -32001,
    rpc("CreateTaskPushNotificationConfig", {"taskId": "0", "url": "http://127.0.0.1"}): -32003,
    rpc("ListTasks", {"pageToken": "x"}): -32602,
    rpc("ListTasks", {"pageSize": 1_000_000}): -32602,
}


def test_what_is_no_request_is_refused(attacked: Attacked) -> None:
    """With the protocol's code for it; of 0.3 too."""
    for body, code in MALFORMED.items():
        answer = attacked.client.post("/it/a2a", content=body, headers=HEADERS)
        assert answer.status_code == 200, body[:80]
        assert answer.json().get("error", {}).get("code") == code, (body[:120], answer.text[:300])
        old = attacked.client.post("/it/", content=body)
        assert old.json().get("error", {}).get("code", 0) < 0, (body[:120], old.text[:300])
    assert attacked.client.post("/it/a2a", content=rpc("GetTask", {}), headers={"A2A-Version": "x"}).json()["error"]
    assert attacked.client.post("/it/a2a", content=b"x" * 33 * 2**20, headers=HEADERS).status_code == 413
    for path in ("/no-such/a2a", "/upload/a2a", "/it/a2a/x"):
        assert attacked.client.post(path, content=rpc("GetTask", {"id": "0"}), headers=HEADERS).status_code == 404


def test_parts_of_any_kind_are_answered(attacked: Attacked) -> None:
    """Those without content are errors, see tests/integrations/test_a2a.py."""
    for part in ({"text": ""}, {"text": "\x00"}, {"url": "javascript:x", "mediaType": "x" * 1_000}, {"data": None}):
        answer = attacked.client.post("/it/a2a", content=rpc("SendMessage", message(part)), headers=HEADERS)
        assert answer.json()["result"]["task"]["status"]["state"].endswith(("COMPLETED", "FAILED")), part


async def kept(tasks: Tasks) -> list[Task]:
    """The tasks that are still there."""
    listed = await tasks.list(ListTasksRequest(page_size=100_000), ServerCallContext(user=UnauthenticatedUser()))
    return list(listed.tasks)


async def save(tasks: Tasks, id: str, text: str = "", state: TaskState = TaskState.TASK_STATE_COMPLETED) -> None:
    """Save a task with *text*."""
    artifact = Artifact(artifact_id="answer", parts=[Part(text=text)])
    task = Task(id=id, context_id="c", status=TaskStatus(state=state), artifacts=[artifact])
    await tasks.save(task, ServerCallContext(user=UnauthenticatedUser()))


def test_tasks_are_kept_within_bounds() -> None:
    """By number and by size; one that runs is not forgotten."""

    async def save_many() -> None:
        tasks = Tasks()
        await save(tasks, "running", state=TaskState.TASK_STATE_WORKING)
        for index in range(MAX_KEPT + 10):
            await save(tasks, f"small {index}")
        assert len(await kept(tasks)) == MAX_KEPT + 1
        megabyte = "x" * 2**20
        for index in range(MAX_KEPT_BYTES // 2**20 + 3):
            await save(tasks, f"large {index}", megabyte)
        left = await kept(tasks)
        assert sum(task.ByteSize() for task in left) <= MAX_KEPT_BYTES
        assert "running" in {task.id for task in left}
        assert "large 0" not in {task.id for task in left}
        await save(tasks, "too large", megabyte * 65)
        assert [task.id for task in await kept(tasks)] == ["running"]

    asyncio.run(save_many())


def test_the_text_of_a_task_that_runs_is_one_part() -> None:
    """However many updates it came in; the SDK's task has none of them until the last one."""

    async def update_often() -> None:
        tasks, context = Tasks(), ServerCallContext(user=UnauthenticatedUser())
        task = Task(id="a", context_id="c", status=TaskStatus(state=TaskState.TASK_STATE_WORKING))
        await tasks.save(task, context)
        for index in range(100):
            event = TaskArtifactUpdateEvent(append=index > 0)
            event.artifact.CopyFrom(Artifact(artifact_id=ANSWER, parts=[Part(text=f"{index} ")]))
            append_artifact_to_task(task, event)
            await tasks.save(task, context)
            assert not task.artifacts[0].parts
        whole = "".join(f"{index} " for index in range(100))
        (listed,), got = await kept(tasks), await tasks.get("a", context)
        assert [part.text for part in listed.artifacts[0].parts] == [whole]
        assert got == listed
        task.status.state = TaskState.TASK_STATE_COMPLETED
        await tasks.save(task, context)
        assert [part.text for part in task.artifacts[0].parts] == [whole]

    asyncio.run(update_often())


def test_conversations_are_kept_within_bounds() -> None:
    """The one that was used last stays; one that is too long is forgotten."""
    conversations = Conversations()
    turn = {"role": "user", "content": "x" * 2**20}
    for index in range(100):
        conversations.add(("owner", str(index)), [turn], 2**20)
        conversations.add(("owner", "0"), [{"role": "user", "content": "short"}], 5)
    assert not conversations.messages(("owner", "1"))
    assert len(conversations.messages(("owner", "0"))) == 101
    for _ in range(70):
        conversations.add(("owner", "long"), [turn], 2**20)
    assert len(conversations.messages(("owner", "long"))) < 65


def sent(attacked: Attacked, method: str, params: object, headers: dict[str, str] = HEADERS) -> Any:
    """The answer to a request."""
    return attacked.client.post("/it/a2a", content=rpc(method, params), headers=headers).json()


OLD = {"Content-Type": "application/json"}  # of version 0.3


def old_message(*parts: object) -> dict[str, Any]:
    """The same of 0.3."""
    return {"message": {"messageId": "1", "role": "user", "kind": "message", "parts": list(parts)}}


def test_a_message_has_some_thousand_values(attacked: Attacked) -> None:
    """The SDK converts them on the event loop: a body of 4 MB would hold it for half a minute."""
    send(f"{attacked.url}/it", "hello")  # which imports the SDK
    most, many, texts = [1] * 9_900, [1] * 1_900_000, [{"text": "a"}] * 45_000

    def send_all() -> None:
        for params in (message({"data": many}), message(*texts), {**message({"text": "a"}), "metadata": {"a": many}}):
            error = sent(attacked, "SendMessage", params)["error"]
            assert (error["code"], "10,000 values" in error["message"]) == (-32602, True)
        assert sent(attacked, "message/send", old_message({"kind": "data", "data": {"a": many}}), OLD)["error"]
        task = sent(attacked, "SendMessage", message({"data": most}))["result"]["task"]
        assert task["status"]["state"] == "TASK_STATE_COMPLETED"
        assert task["history"][0]["parts"][0]["metadata"]["bytes"] > 90_000
        old = sent(attacked, "message/send", old_message({"kind": "data", "data": {"a": most}}), OLD)
        assert old["result"]["status"]["state"] == "completed"

    attacked.cost(send_all).check(megabytes=200)


def test_the_history_has_the_beginning_of_a_long_message(attacked: Attacked) -> None:
    """A client's ids, which each update has, are short."""
    task = sent(attacked, "SendMessage", message({"text": "x" * 2_000_000}, {"text": "y"}))["result"]["task"]
    (part,) = task["history"][0]["parts"]
    assert (set(part["text"]), part["metadata"]["bytes"] > 2_000_000) == ({"x"}, True)
    assert len(json.dumps(task)) < 20_000
    for name in ("messageId", "contextId", "taskId"):
        assert sent(attacked, "SendMessage", message({"text": "x"}, **{name: "a" * 5_000}))["error"]["code"] == -32602


def test_an_unread_stream_costs_its_text_once(attacked: Attacked) -> None:
    """Not a copy of the task for each update, and each subscriber; who reads has the whole text."""
    send(f"{attacked.url}/it", "hello")  # which imports the SDK
    whole = "".join(f"{index:05}" * 5_000 for index in range(60))  # 1.5 MB

    def stream_unread() -> None:
        body = rpc("SendStreamingMessage", message({"text": "stream " + "x" * 5_000_000}))
        with socket.create_connection(("127.0.0.1", attacked.port)) as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            lines = (
                f"{name}: {value}" for name, value in {**HEADERS, "Host": "x", "Content-Length": len(body)}.items()
            )
            unread.sendall("\r\n".join(("POST /it/a2a HTTP/1.1", *lines, "", "")).encode() + body)
            (task,) = eventually(lambda: running(attacked))
            texts = []
            with attacked.client.stream(
                "POST", "/it/a2a", content=rpc("SubscribeToTask", {"id": task}), headers=HEADERS
            ) as response:
                for line in response.iter_lines():
                    result = json.loads(line.removeprefix("data: "))["result"] if line.startswith("data: ") else {}
                    update = [result["artifactUpdate"]["artifact"]] if "artifactUpdate" in result else ()
                    artifacts = result.get("task", {}).get("artifacts", update)
                    texts += [part.get("text", "") for artifact in artifacts for part in artifact["parts"]]
            assert "".join(texts) == whole
        ended = sent(attacked, "GetTask", {"id": task})["result"]
        assert [part["text"] for part in ended["artifacts"][0]["parts"]] == [whole]

    attacked.cost(stream_unread).check(megabytes=80)
    blocking = sent(attacked, "SendMessage", message({"text": "stream"}))["result"]["task"]
    assert [part["text"] for part in blocking["artifacts"][0]["parts"]] == [whole]


def running(attacked: Attacked) -> list[str]:
    """The ids of the tasks at work."""
    tasks = sent(attacked, "ListTasks", {"status": "TASK_STATE_WORKING"})["result"]["tasks"]
    return [task["id"] for task in tasks]


def test_a_task_takes_one_message(attacked: Attacked) -> None:
    """Another one for it, running or ended, is refused, and changes nothing."""
    at_once = {**message({"text": "stream"}), "configuration": {"returnImmediately": True}}
    task = sent(attacked, "SendMessage", at_once)["result"]["task"]
    again = {"taskId": task["id"], "contextId": task["contextId"]}
    for method in ("SendMessage", "SendStreamingMessage"):
        assert refused(attacked, method, again)
    sent(attacked, "CancelTask", {"id": task["id"]})
    assert refused(attacked, "SendMessage", again)
    ended = sent(attacked, "GetTask", {"id": task["id"]})["result"]
    assert (ended["status"]["state"], len(ended["history"])) == ("TASK_STATE_CANCELED", 1)


def refused(attacked: Attacked, method: str, ids: dict[str, str]) -> bool:
    """Whether a message for a task is no operation that there is."""
    answer = sent(attacked, method, message({"text": "x"}, **ids))
    return bool(answer["error"]["code"] == -32004)


@pytest.mark.slow
def test_a_thousand_streams_that_are_dropped_cost_no_memory(attacked: Attacked) -> None:
    """Their tasks run to their ends, and are forgotten."""
    send(f"{attacked.url}/it", "hello")  # which imports the SDK
    body = rpc("SendStreamingMessage", message({"text": "hello " * 100}))

    def open_and_drop() -> None:
        for _ in range(20):
            with httpx.Client(base_url=attacked.url, timeout=60) as client:
                for _ in range(50):
                    with client.stream("POST", "/it/a2a", content=body, headers=HEADERS) as response:
                        next(response.iter_lines())

    open_and_drop()  # as many as are kept
    attacked.cost(open_and_drop).check(megabytes=20)
    assert text_of(send(f"{attacked.url}/it", "hello"))


@pytest.mark.slow
def test_a_large_file_holds_nobody_up(attacked: Attacked) -> None:
    """Its bytes are parsed, handed to the pipeline, and not kept."""
    send(f"{attacked.url}/it", "hello")  # which imports the SDK
    part = {"raw": "A" * 20 * 2**20, "filename": "a.bin", "mediaType": "application/octet-stream"}
    body = rpc("SendMessage", message({"text": "look"}, part))

    def send_it() -> None:
        answer = attacked.client.post("/it/a2a", content=body, headers=HEADERS)
        assert answer.json()["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert len(answer.content) < 2_000

    attacked.cost(send_it).check(megabytes=300)
    for _ in range(4):
        send_it()
    attacked.cost(send_it).check(megabytes=200)
