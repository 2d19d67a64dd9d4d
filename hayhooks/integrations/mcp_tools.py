"""Tools of the Model Context Protocol: how a deployment is described as one, and its answer as a result."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from httpx2 import Request
from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic_core import from_json, to_json

from hayhooks.errors import sendable, type_and_message
from hayhooks.http.user_code import honest
from hayhooks.http.within import Answer
from hayhooks.kernel.operations import Operation
from hayhooks.kernel.state import Deployment
from hayhooks.observability.log import log
from hayhooks.openai.bridge import chat_of
from hayhooks.openapi.describe import EVENTS, JSON, object_schema
from hayhooks.openapi.type_schemas import inline_refs, schemas_of

_MESSAGE = {
    "type": "object",
    "properties": {"message": {"type": "string", "description": "What to say to it."}},
    "required": ["message"],
}

_FILE = {
    "type": "object",
    "properties": {
        "filename": {"type": "string"},
        "content": {"type": "string", "contentEncoding": "base64"},
        "media_type": {"type": "string"},
    },
    "required": ["filename", "content"],
}

_WARNED = "mcp.warned"  # key in the cache of a deployment


@dataclass(frozen=True, slots=True)
class DeploymentTool:
    """A tool that calls a deployment."""

    tool: Tool
    path: str  # of the endpoint that is called, below "/{name}"
    uploads: frozenset[str] = frozenset()  # its arguments that are files
    wraps: bool = False  # its structured content is `{"result": value}`: the value is not an object


def tools_of(deployment: Deployment) -> list[DeploymentTool] | None:
    """Describe *deployment*: a tool for ``run_api``, and one for its chat if the wrapper says so; None: none at all."""
    try:
        return None if getattr(deployment.wrapper, "skip_mcp", False) else _tools_of(deployment)
    # The wrapper's class may raise anything, and shall not take away the tools of others.
    except BaseException as error:
        log.warning("{}: it is not a tool of MCP: {}", deployment.name, type_and_message(honest(error)))
        return None


def _tools_of(deployment: Deployment) -> list[DeploymentTool]:
    found = []
    wrapper, run = deployment.wrapper, deployment.operation("run_api_async", "run_api")
    if run is not None:
        found.append(_run_tool(deployment, run))
    if getattr(wrapper, "mcp_chat", False) and (chat := chat_of(deployment)) is not None:
        name = f"{deployment.name}_chat" if run is not None else deployment.name
        tool = Tool(name=name, description=_description(deployment, chat), input_schema=_MESSAGE)
        found.append(DeploymentTool(tool, "/chat"))
    return found


def _run_tool(deployment: Deployment, run: Operation) -> DeploymentTool:
    types: dict[str, Any] = {"request": (run.arguments, "validation")}
    if run.result is not None and run.result_kinds == {"value"}:
        types["result"] = (run.result, "serialization")
    schemas, components = schemas_of(deployment.name, types)
    output, wraps = None, False
    if "result" in schemas:
        output = inline_refs(schemas["result"], components)
        if wraps := output.get("type") != "object":
            output = inline_refs(object_schema(["result"], result=schemas["result"]), components)
    tool = Tool(
        name=deployment.name,
        description=_description(deployment, run),
        input_schema={"type": "object", **_with_files(inline_refs(schemas["request"], components))},
        output_schema=output,
    )
    return DeploymentTool(tool, "/run", run.uploads, wraps)


def _with_files(schema: Any) -> Any:
    """Return *schema* with ``_FILE`` in the place of the bytes of a form's file."""
    if isinstance(schema, list):
        return [_with_files(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "binary":
        return _FILE | {key: schema[key] for key in ("title", "description") if key in schema}
    return {key: _with_files(each) for key, each in schema.items()}


def _description(deployment: Deployment, operation: Operation) -> str:
    own = "\n\n".join(filter(None, (operation.summary, operation.description)))
    return own or deployment.description or f"Run the pipeline {deployment.name}."


def tools_by_name(described: Sequence[tuple[Deployment, Sequence[DeploymentTool]]]) -> dict[str, Tool]:
    """Return the tools of *described* by name. That of a chat gives way to the deployment whose name it is."""
    found = {
        deployment.name: each for deployment, tools in described for each in tools if each.tool.name == deployment.name
    }
    for deployment, tools in described:
        for each in tools:
            if found.setdefault(each.tool.name, each) is not each and _WARNED not in deployment.runtime.cache:
                deployment.runtime.cache[_WARNED] = True  # as lists are asked for again and again
                log.warning(
                    "{}: its chat is no tool of MCP: the deployment {} has that name", deployment.name, each.tool.name
                )
    return {name: each.tool for name, each in found.items()}


def core_tools() -> list[Tool]:
    """Describe the tools that tell of the server."""
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
    name = {"type": "string", "description": "The pipeline's name."}
    return [
        Tool(
            name="list_pipelines",
            description="List the pipelines of this server: their names, states and descriptions.",
            input_schema=object_schema([]),
            annotations=reads,
        ),
        Tool(
            name="pipeline_status",
            description="Tell the state of one pipeline, its revision, and why its newest revision does not serve.",
            input_schema=object_schema(["name"], name=name),
            annotations=reads,
        ),
    ]


def body_of(called: DeploymentTool, arguments: dict[str, Any]) -> tuple[str, bytes]:
    """Return the content type and the body of the request that *called* is; ValueError names the wrong argument."""
    body: Any = arguments
    if called.path == "/chat":
        message = arguments.get("message")
        if not isinstance(message, str):
            raise ValueError("message: must be a string")
        body = {"messages": [{"role": "user", "content": message}], "stream": True}
    elif files := list(_files(called.uploads, arguments)):
        fields = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in arguments.items()
            if name not in called.uploads
        }
        form = Request("POST", "http://hayhooks", data=fields, files=files)
        return form.headers["content-type"], form.read()
    return JSON, json.dumps(body).encode()  # which also writes half a character, as pydantic does not


def _files(uploads: frozenset[str], arguments: dict[str, Any]) -> Iterator[tuple[str, tuple[str, bytes, str]]]:
    """Yield the files among *arguments*, each as a field of a form."""
    for name in sorted(uploads & arguments.keys()):
        value = arguments[name]
        for file in value if isinstance(value, list) else [] if value is None else [value]:
            if not isinstance(file, dict):
                raise ValueError(f"{name}: must be an object with filename, and content in base64")
            told = {"media_type": "application/octet-stream", **file}
            for part in ("filename", "media_type"):
                if not isinstance(told.get(part), str):
                    raise ValueError(f"{name}.{part}: must be a string")
            try:
                content = base64.b64decode(file["content"], validate=True)
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{name}.content: must be the file's content in base64") from None
            yield name, (file["filename"], content, told["media_type"])


def failed(*reasons: str) -> CallToolResult:
    """Return a result that is an error."""
    return CallToolResult(content=_texts(*map(sendable, reasons)), is_error=True)


def result_of(answer: Answer, called: DeploymentTool | None = None) -> CallToolResult:
    """Return what *answer* says, as the result of a tool."""
    if answer.status >= 400 or not answer.status:
        return failed(_problem(answer))
    if answer.media_type == EVENTS:
        text, error = text_of_events(answer.body)
        return failed(*filter(None, (text, error))) if error else CallToolResult(content=_texts(text))
    if answer.cut_by:
        return failed(*filter(None, (answer.body.decode(errors="replace"), answer.cut_by)))
    if answer.media_type != JSON:
        return CallToolResult(content=list(_content(answer)))
    try:
        value = from_json(answer.body)
    except ValueError:  # the wrapper's own response says that it is JSON
        return CallToolResult(content=_texts(answer.body.decode(errors="replace")))
    if called is not None and isinstance(value, dict) and value.keys() == {"result"}:
        value = value["result"]
    structured = value if isinstance(value, dict) else None
    if called is not None and called.wraps:
        structured = {"result": value}
    text = value if isinstance(value, str) else to_json(value).decode()
    return CallToolResult(content=_texts(text), structured_content=structured)


def pipelines_of(answer: Answer) -> CallToolResult:
    """Return the answer of ``/status``, cut to what tells the pipelines apart."""
    if answer.status != 200:
        return result_of(answer)
    fields = ("name", "state", "description", "error")
    found = [{field: each[field] for field in fields} for each in from_json(answer.body)["deployments"]]
    return result_of(Answer(200, answer.media_type, to_json({"pipelines": found})))


def status_of(answer: Answer) -> CallToolResult:
    """Return the status of a pipeline that cannot serve as a result: that was asked, and is no error."""
    if answer.status == 503 and b'"state"' in answer.body:
        return result_of(Answer(200, answer.media_type, answer.body))
    return result_of(answer)


def text_of_events(body: bytes) -> tuple[str, str]:
    """Return the text of server-sent events, ours or OpenAI's chunks, and the error that ended them, if any."""
    texts, error = [], ""
    for event in body.decode(errors="replace").split("\n\n"):
        lines = [line for line in event.splitlines() if line.startswith(("data:", "event:"))]
        data = "\n".join(line[5:].removeprefix(" ") for line in lines if line.startswith("data:"))
        chunk: Any = None
        if data.startswith("{"):
            try:
                chunk = from_json(data)
            except ValueError:
                chunk = None
        if isinstance(chunk, dict) and "error" in chunk and ("event: error" in lines or "choices" not in chunk):
            reason = chunk["error"]
            error = str(reason.get("message", reason) if isinstance(reason, dict) else reason)
        elif isinstance(chunk, dict) and chunk.get("object") == "chat.completion.chunk":
            try:
                texts.append("".join(choice["delta"].get("content") or "" for choice in chunk["choices"]))
            except (LookupError, TypeError, AttributeError):  # a wrapper's own
                texts.append(data)
        elif data != "[DONE]":
            texts.append(data)
    return "".join(texts), error


def _problem(answer: Answer) -> str:
    """Return why a request failed: the field that is wrong, or what the pipeline raised."""
    try:
        body = from_json(answer.body)
        detail = body.get("detail", body)
    except (ValueError, AttributeError):
        return answer.body.decode(errors="replace") or answer.cut_by or f"status {answer.status or 499}"
    try:  # as a 422 has it
        return "\n".join(f"{'.'.join(map(str, each['loc'][1:])) or 'arguments'}: {each['msg']}" for each in detail)
    except (LookupError, TypeError):
        return str(detail)


def _texts(*texts: str) -> list[ContentBlock]:
    return [TextContent(text=text) for text in texts]


def _content(answer: Answer) -> Iterator[ContentBlock]:
    kind, encoded = answer.media_type, base64.b64encode(answer.body).decode()
    if kind.startswith("text/") or not answer.body:
        yield TextContent(text=answer.body.decode(errors="replace"))
    elif kind.startswith("image/"):
        yield ImageContent(data=encoded, mime_type=kind)
    elif kind.startswith("audio/"):
        yield AudioContent(data=encoded, mime_type=kind)
    else:
        yield EmbeddedResource(resource=BlobResourceContents(uri="hayhooks://result", mime_type=kind, blob=encoded))
