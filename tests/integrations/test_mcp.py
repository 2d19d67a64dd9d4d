"""``/mcp`` by the official client: the tools are the deployments."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    Tool,
)

from hayhooks.observability.request_record import RequestRecord
from tests.integrations.mcp_client import ERAS, call, text_of, with_client
from tests.integrations.test_mcp_changes import ACCEPT, INITIALIZE, begin_session
from tests.live_server import LiveServer, SharedServer, serving
from tests.pipelines import ASK
from tests.wrappers import source

TOOL = source("tool")
STREAM = source("gated_stream")
YAML = """
components:
  builder:
    type: haystack.components.builders.prompt_builder.PromptBuilder
    init_parameters: {template: "Hello {{ name }}"}
connections: []
inputs: {name: builder.name}
outputs: {greeting: builder.prompt}
"""

both_eras = pytest.mark.parametrize("mode", ERAS)


@pytest.fixture
def server(shared_server: SharedServer) -> LiveServer:
    return shared_server


def tools(url: str, **options: Any) -> dict[str, Tool]:
    """The tools that are listed, by name."""

    async def listed(client: Client) -> list[Tool]:
        return (await client.list_tools()).tools

    return {tool.name: tool for tool in with_client(url, listed, **options)}


def answers(server: LiveServer, status: int) -> int:
    """How many requests of "it" were answered with *status*."""
    counts = server.app.metrics.of("it").answers  # type: ignore[union-attr]  # metrics are on
    return sum(sum(each[:-1]) for (path, _, code), each in counts.items() if (path, code) == ("/{name}/run", status))


# ---------------------------------------------------------------------------------------------------- tools


@both_eras
def test_a_deployment_is_a_tool(server: LiveServer, mode: str) -> None:
    """Its name, docstring, arguments and result come from the wrapper; the result is structured."""
    server.serve("it", TOOL)
    tool = tools(server.url, mode=mode)["it"]
    assert tool.description == "Add numbers.\n\nHowever many."
    assert tool.input_schema["required"] == ["numbers"]
    assert tool.input_schema["properties"]["numbers"]["description"] == "what to add."
    assert tool.output_schema is not None
    assert set(tool.output_schema["properties"]) == {"total", "count"}

    result = call(server.url, "it", {"numbers": [1, 2]}, mode)
    assert result.structured_content == {"total": 3, "count": 2}
    assert (text_of(result), result.is_error) == ('{"total":3,"count":2}', False)


def test_a_result_that_is_no_object_is_wrapped(server: LiveServer) -> None:
    """As structured content has to be an object; the text is the text."""
    server.serve("it", answer="You said: ")
    assert tools(server.url)["it"].output_schema == {
        "type": "object",
        "properties": {"result": {"type": "string"}},
        "required": ["result"],
    }
    result = call(server.url, "it", {"text": "hello"})
    assert (text_of(result), result.structured_content) == ("You said: hello", {"result": "You said: hello"})


def test_a_yaml_pipeline_is_a_tool(server: LiveServer) -> None:
    (server.root / "greeter.yml").write_text(YAML)
    server.eventually(lambda: server.state("greeter")["state"] == "serving")
    assert "name" in tools(server.url)["greeter"].input_schema["properties"]
    result = call(server.url, "greeter", {"name": "Ada"})
    assert result.structured_content == {"builder": {"prompt": "Hello Ada"}}


def test_files_are_arguments(server: LiveServer) -> None:
    """As objects with a name and the content in base64; the part that is wrong is told."""
    server.serve("it", source("uploads"))
    assert "contentEncoding" in str(tools(server.url)["it"].input_schema)
    content = base64.b64encode(b"one two").decode()
    file = {"filename": 'a "b".txt', "content": content, "media_type": "text/plain"}
    result = call(server.url, "it", {"files": [file, file], "title": "5", "pages": [1, 2], "dry": True})
    assert not result.is_error, text_of(result)
    assert result.structured_content == {"files": 2}
    for wrong, reason in (
        ("text", "files: must be an object with filename, and content in base64"),
        ([3], "files: must be an object with filename, and content in base64"),
        ([{"filename": "a"}], "files.content: must be the file's content in base64"),
        ([{**file, "content": "?"}], "files.content: must be the file's content in base64"),
        ([{**file, "filename": 1}], "files.filename: must be a string"),
        ([{**file, "media_type": 1}], "files.media_type: must be a string"),
    ):
        assert text_of(call(server.url, "it", {"files": wrong})) == reason
    assert "files: Field required" in text_of(call(server.url, "it", {"title": "5"}))


def test_other_answers_than_json_are_content_of_their_type(server: LiveServer) -> None:
    server.serve("it", source("media"))
    encoded = base64.b64encode(b"bytes").decode()

    async def ask(client: Client) -> dict[str, CallToolResult]:
        kinds = ("image/png", "audio/wav", "application/pdf", "text/csv", "events", "application/json")
        return {kind: await client.call_tool("it", {"kind": kind}) for kind in kinds}

    found = with_client(server.url, ask)
    image, audio, pdf = (found[kind].content[0] for kind in ("image/png", "audio/wav", "application/pdf"))
    assert isinstance(image, ImageContent)
    assert (image.data, image.mime_type) == (encoded, "image/png")
    assert isinstance(audio, AudioContent)
    assert audio.mime_type == "audio/wav"
    assert isinstance(pdf, EmbeddedResource)
    assert isinstance(pdf.resource, BlobResourceContents)
    assert (pdf.resource.blob, pdf.resource.mime_type) == (encoded, "application/pdf")
    assert text_of(found["text/csv"]) == "bytes"
    assert text_of(found["events"]) == 'one {"two":2}'
    assert text_of(found["application/json"]) == "bytes"  # it is none
    assert text_of(call(server.url, "it", {"kind": "text/plain", "status": 204})) == ""
    refused = call(server.url, "it", {"kind": "text/plain", "status": 418})
    assert (refused.is_error, text_of(refused)) == (True, "status 418")


def test_skip_mcp_leaves_one_out(server: LiveServer) -> None:
    server.serve("it", source("echo").replace("    def setup", "    skip_mcp = True\n\n    def setup", 1), answer="")
    assert set(tools(server.url)) == {"list_pipelines", "pipeline_status"}
    result = call(server.url, "it")
    assert (result.is_error, text_of(result)) == (True, "There is no tool 'it'")
    assert server.run("it", text="over HTTP") == "over HTTP"


def test_a_yaml_pipeline_has_the_same_options(server: LiveServer) -> None:
    (server.root / "yam.yml").write_text(f"{ASK}mcp_chat: true\n")
    server.eventually(lambda: {"yam", "yam_chat"} <= set(tools(server.url)))
    (server.root / "yam.yml").write_text(f"{ASK}mcp_chat: true\nskip_mcp: true\n")
    server.eventually(lambda: not {"yam", "yam_chat"} & set(tools(server.url)))


def test_a_class_that_raises_takes_no_tools_of_others_away(server: LiveServer) -> None:
    """One that has been loaded."""
    value = "not vars(self).setdefault('asked', []).append(1) and len(self.asked) > 1 and exit(3)"
    raises = f"    @property\n    def skip_mcp(self):\n        return {value}\n\n    def setup"
    server.serve("it", source("echo").replace("    def setup", raises, 1), answer="")
    server.serve("good", answer="")
    assert "good" in tools(server.url)
    assert "it" not in tools(server.url)


@both_eras
def test_a_chat_is_a_tool_where_the_wrapper_wants_it(server: LiveServer, mode: str) -> None:
    server.serve("it", source("client_words").replace("    def setup", "    mcp_chat = True\n\n    def setup", 1))
    assert tools(server.url)["it"].input_schema["required"] == ["message"]
    heard: list[str | None] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message)

    result = with_client(
        server.url, lambda client: client.call_tool("it", {"message": "hi"}, progress_callback=listen), mode
    )
    assert text_of(result) == "You said: hi"
    assert "".join(filter(None, heard)) == "You said: hi"
    assert text_of(call(server.url, "it", {"message": 1})) == "message: must be a string"


def test_a_chat_beside_run_api_has_a_name_of_its_own(server: LiveServer) -> None:
    """And says what it has raised."""
    server.serve("it", source("client_failing").replace("    asked", "    mcp_chat = True\n    asked", 1))
    assert {"it", "it_chat"} <= set(tools(server.url))
    result = call(server.url, "it_chat", {"message": "hi"})
    assert result.is_error
    assert "no luck today" in text_of(result)


def test_a_deployment_of_a_chats_name_wins(server: LiveServer, logged: list[str]) -> None:
    """Each name is listed once, and one warning names both."""
    server.serve("it", source("client_failing").replace("    asked", "    mcp_chat = True\n    asked", 1))
    server.serve("it_chat", answer="You said: ")

    async def listed(client: Client) -> list[str]:
        await client.list_tools()
        return [tool.name for tool in (await client.list_tools()).tools]

    names = with_client(server.url, listed)
    assert (names.count("it"), names.count("it_chat")) == (1, 1)
    assert text_of(call(server.url, "it_chat", {"text": "hello"})) == "You said: hello"
    warnings = [line for line in logged if "its chat is no tool" in line]
    assert len(warnings) == 1
    assert "it: its chat is no tool of MCP: the deployment it_chat has that name" in warnings[0]


def test_what_can_only_chat_says_so(server: LiveServer) -> None:
    server.serve("it", source("client_words"))
    found = text_of(call(server.url, "it", {"message": "hi"}))
    assert found == "it can only chat: `mcp_chat = True` in its wrapper makes a tool of that"


def test_a_file_keeps_its_description(server: LiveServer) -> None:
    server.serve("it", source("uploads").replace("list[UploadFile]", "UploadFile").replace("len(files)", "1"))
    found = tools(server.url)["it"].input_schema["properties"]["files"]
    assert (found["description"], found["required"]) == ("what to index.", ["filename", "content"])


# --------------------------------------------------------------------------------------------------- errors


@both_eras
def test_errors_are_results_that_say_what_is_wrong(server: LiveServer, mode: str) -> None:
    """The field, or what the pipeline raised; a slip of a name is noticed."""
    server.serve("it", TOOL)

    async def ask(client: Client) -> list[tuple[bool, str]]:
        given: list[tuple[str, dict[str, Any]]] = [
            ("it", {}),
            ("it", {"numbers": [1, "x"]}),
            ("it", {"numbers": [1], "luck": False}),
            ("it", {"numbers": []}),
            ("itt", {}),
        ]
        results = [await client.call_tool(name, arguments) for name, arguments in given]
        return [(result.is_error, text_of(result)) for result in results]

    assert with_client(server.url, ask, mode) == [
        (True, "numbers: Field required"),
        (True, "numbers.1: Input should be a valid integer, unable to parse string as an integer"),
        (True, "Pipeline execution failed: ValueError: no luck today"),
        (True, "there is nothing to add"),
        (True, "There is no tool 'itt'; did you mean 'it'?"),
    ]


def test_a_pipeline_that_does_not_load_says_why(server: LiveServer) -> None:
    server.write("broken", "import there_is_no_such_module")
    server.eventually(lambda: server.state("broken")["state"] == "failed")
    server.write("files", TOOL)  # as a route of the server
    server.eventually(lambda: server.state("files")["state"] == "failed")
    assert "the name 'files' belongs to a route of the server" in text_of(call(server.url, "files"))
    result = call(server.url, "broken")
    assert result.is_error
    assert "there_is_no_such_module" in text_of(result)


# ------------------------------------------------------------------------------------------- the way of a request


@both_eras
def test_a_call_is_a_request_of_the_deployment(server: LiveServer, mode: str) -> None:
    """It counts, and has a record for logs and traces: with its status, and the id of the request that carried it."""
    server.serve("it", TOOL)
    before = answers(server, 200), answers(server, 500)
    records: list[RequestRecord] = []
    with server.app.hooks.use(on_request_end=records.append):
        call(server.url, "it", {"numbers": [1]}, mode)
        call(server.url, "it", {"numbers": [1], "luck": False}, mode)
        server.eventually(  # a client has the answer before its record is complete
            lambda: (
                {each.id for each in records if each.pipeline}
                <= {each.id for each in records if each.endpoint == "/mcp"}
            )
        )
    assert (answers(server, 200), answers(server, 500)) == (before[0] + 1, before[1] + 1)

    ran = [each for each in records if each.pipeline]
    assert [(each.endpoint, each.pipeline, each.status) for each in ran] == [
        ("/{name}/run", "it", 200),
        ("/{name}/run", "it", 500),
    ]
    assert "no luck today" in ran[1].error
    assert all(each.revision and each.client == "127.0.0.1" for each in ran)


@both_eras
def test_a_stream_reports_progress_and_ends_with_the_whole(server: LiveServer, tmp_path: Path, mode: str) -> None:
    """The parts come while the pipeline works on the rest."""
    gate = tmp_path / "gate"
    server.serve("it", STREAM, gate=str(gate))
    heard: list[tuple[float, str | None]] = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, message))
        gate.touch()

    result = with_client(server.url, lambda client: client.call_tool("it", {}, progress_callback=listen), mode)
    assert text_of(result) == "first second"
    assert heard == [(1, "first "), (2, "second")]


def test_an_error_in_mid_stream_is_an_error_with_what_came_before(server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "gate").touch()
    server.serve("it", STREAM, gate=str(tmp_path / "gate"))
    result = call(server.url, "it", {"fails": True})
    assert result.is_error
    assert result.content[0].text == "first "
    assert "no luck today" in text_of(result)


@both_eras
def test_a_cancelled_call_stops_the_pipeline(server: LiveServer, tmp_path: Path, mode: str) -> None:
    """At its next item, with its clean-up."""
    server.serve("it", STREAM, gate=str(tmp_path / "gate"))
    heard = asyncio.Event()

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        heard.set()

    async def cancel(client: Client) -> None:
        calling = asyncio.create_task(client.call_tool("it", {}, progress_callback=listen))
        await heard.wait()
        calling.cancel()
        await asyncio.to_thread(server.eventually, (tmp_path / "closed").exists)
        assert (await client.list_tools()).tools  # the session goes on

    with_client(server.url, cancel, mode)


@both_eras
def test_a_client_that_leaves_stops_the_pipeline(server: LiveServer, tmp_path: Path, mode: str) -> None:
    server.serve("it", source("waits"), gate=str(tmp_path / "gate"))

    async def leave(client: Client) -> None:
        calling = asyncio.create_task(client.call_tool("it", {"number": 1}))
        await asyncio.to_thread(server.eventually, (tmp_path / "gate-begun-1").exists)
        calling.cancel()

    with_client(server.url, leave, mode)
    server.eventually((tmp_path / "gate-cancelled-1").exists)


def test_a_connection_of_2025_that_is_cut_stops_the_pipeline(server: LiveServer, tmp_path: Path) -> None:
    """Its answer could not be delivered any more."""
    server.serve("it", source("waits"), gate=str(tmp_path / "gate"))
    message = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": {"name": "it", "arguments": {"number": 5}}}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        headers = {**ACCEPT, "mcp-session-id": begin_session(client)}
        with client.stream("POST", "/mcp", json=message, headers=headers):
            server.eventually((tmp_path / "gate-begun-5").exists)
    server.eventually((tmp_path / "gate-cancelled-5").exists)


def test_limits_hold(server: LiveServer, tmp_path: Path) -> None:
    """The slots and the timeout are those of any request."""
    limits = "    concurrency = 1\n    queue_size = 0\n    request_timeout = 0.5\n\n    def setup"
    server.serve("it", source("waits").replace("    def setup", limits, 1), gate=str(tmp_path / "gate"))

    async def call_twice(client: Client) -> list[str]:
        first = asyncio.create_task(client.call_tool("it", {"number": 1}))
        await asyncio.to_thread(server.eventually, (tmp_path / "gate-begun-1").exists)
        second = await client.call_tool("it", {"number": 2})
        return [text_of(await first), text_of(second)]

    timed_out, refused = with_client(server.url, call_twice)
    assert "0.5 s" in timed_out
    assert "at capacity" in refused


def test_keys_have_their_scopes(root: Path) -> None:
    """A key sees and calls the tools of its pipelines; what tells of the server needs ``read``."""
    keys = root.parent / "keys"
    keys.write_text(
        "ada:0123456789abcdef0123:call=mine\nbob:abcdef0123456789abcd:read\nall:ffffff0123456789abcd:call read"
    )
    with serving(root, api_keys_file=keys) as server:
        server.client.headers["Authorization"] = "Bearer ffffff0123456789abcd"
        server.serve("mine", answer="mine")
        server.serve("other", answer="other")
        ada, bob = "0123456789abcdef0123", "abcdef0123456789abcd"

        assert set(tools(server.url, key=ada)) == {"mine"}
        assert set(tools(server.url, key=bob)) == {"list_pipelines", "pipeline_status"}
        assert text_of(call(server.url, "mine", key=ada)) == "mine"
        refused = call(server.url, "other", key=ada)
        assert refused.is_error
        assert "may not call 'other'" in text_of(refused)
        assert "may not call 'nobody'" in text_of(call(server.url, "nobody", key=ada))
        assert call(server.url, "list_pipelines", key=ada).is_error
        assert "other" in text_of(call(server.url, "list_pipelines", key=bob))
        refused = server.client.post("/mcp", headers={"Authorization": "Bearer wrong"})
        assert refused.status_code == 401
        error = {"code": -32600, "message": refused.json()["detail"]}
        assert {**refused.json(), "detail": ""} == {"jsonrpc": "2.0", "id": None, "error": error, "detail": ""}
        for mode in ERAS:
            shown = pytest.RaisesExc(MCPError, match=error["message"])
            with pytest.RaisesGroup(shown, flatten_subgroups=True):
                tools(server.url, key="wrong", mode=mode)


def test_a_rate_counts_a_call_once(root: Path) -> None:
    keys = root.parent / "keys"
    keys.write_text("ada:0123456789abcdef0123:call rate=4/minute\nall:ffffff0123456789abcd:call read")
    with serving(root, api_keys_file=keys) as server:
        server.client.headers["Authorization"] = "Bearer ffffff0123456789abcd"
        server.serve("it", answer="mine")

        async def twice(client: Client) -> list[str]:  # after a request that connects
            return [text_of(await client.call_tool("it", {})) for _ in range(2)]

        assert with_client(server.url, twice, "2026-07-28", key="0123456789abcdef0123") == ["mine", "mine"]


def test_hosts_and_cors_hold(root: Path) -> None:
    with serving(root, allowed_hosts=["localhost"], cors_allow_origins=["https://ui.example"]) as server:
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        refused = server.client.post("/mcp", json=ping, headers={"Host": "evil.example"})
        assert refused.status_code == 400
        assert "HAYHOOKS_ALLOWED_HOSTS" in refused.text
        headers = {"Host": "localhost", "Origin": "https://ui.example", "Accept": "application/json, text/event-stream"}
        answered = server.client.post("/mcp", json=ping, headers=headers)
        assert answered.headers["access-control-allow-origin"] == "https://ui.example"
        begun = server.client.post("/mcp", json=INITIALIZE, headers=headers)
        assert begun.headers["access-control-allow-origin"] == "https://ui.example"
        assert begun.headers["access-control-expose-headers"] == "Mcp-Session-Id"


# ------------------------------------------------------------------------------------------------ core tools


def test_core_tools_tell_what_there_is(server: LiveServer) -> None:
    """And why something does not serve; none of them deploys."""
    server.serve("it", TOOL)
    server.write("broken", "import there_is_no_such_module")
    server.eventually(lambda: server.state("broken")["state"] == "failed")

    listed = call(server.url, "list_pipelines").structured_content["pipelines"]
    assert [(each["name"], each["state"]) for each in listed] == [("broken", "failed"), ("it", "serving")]
    status = call(server.url, "pipeline_status", {"name": "broken"})
    assert not status.is_error
    assert "there_is_no_such_module" in status.structured_content["error"]
    assert call(server.url, "pipeline_status", {"name": "it"}).structured_content["state"] == "serving"
    unknown = call(server.url, "pipeline_status", {"name": "nobody"})
    assert (unknown.is_error, text_of(unknown)) == (True, "there is no pipeline 'nobody'")
    assert text_of(call(server.url, "pipeline_status")) == "name: must be the name of a pipeline"
    assert all(
        tool.annotations and tool.annotations.read_only_hint for tool in tools(server.url).values() if "_" in tool.name
    )


# ------------------------------------------------------------------------------------------------- resources


@both_eras
def test_resources_are_readme_and_schema(server: LiveServer, mode: str) -> None:
    server.serve("it", TOOL, {"README.md": "# Adds"})

    async def read(client: Client) -> tuple[set[str], str, str]:
        uris = {str(each.uri) for each in (await client.list_resources()).resources}
        readme = (await client.read_resource("hayhooks://it/README.md")).contents[0]
        schema = (await client.read_resource("hayhooks://it/schema.json")).contents[0]
        return uris, readme.text, schema.text  # type: ignore[union-attr]  # both are texts

    uris, readme, schema = with_client(server.url, read, mode)
    assert uris == {"hayhooks://it/README.md", "hayhooks://it/schema.json"}
    assert readme == "# Adds"
    assert '"numbers"' in schema

    async def read_other(client: Client) -> str:
        with pytest.raises(Exception, match="there is no resource"):
            await client.read_resource("hayhooks://it/../it/pipeline_wrapper.py")
        return ""

    with_client(server.url, read_other, mode)
