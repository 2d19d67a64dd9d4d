"""The server of the Agent2Agent protocol, by its SDK: cards, JSON-RPC, and the tasks that run.

A task is a request within the process to the chat of its deployment, and its states follow that stream.
"""

import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from a2a.auth.user import User
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import Event, EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.request_handlers.response_helpers import agent_card_to_dict, build_error_response
from a2a.server.routes import create_agent_card_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.tasks import TaskUpdater
from a2a.types import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    Message,
    SecurityRequirement,
    SecurityScheme,
    SendMessageRequest,
    StringList,
    SubscribeToTaskRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.constants import PROTOCOL_VERSION_0_3, VERSION_HEADER, TransportProtocol
from a2a.utils.errors import A2AError, InvalidParamsError, UnsupportedOperationError, VersionNotSupportedError
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from loguru import logger as log
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hayhooks.errors import OpenAIError, closest, shortened, type_and_message
from hayhooks.http.context import context_of, deployment_of
from hayhooks.http.request_json import read_json
from hayhooks.http.user_code import honest
from hayhooks.http.within import request_within
from hayhooks.integrations.a2a_messages import AnswerReader, content_of, for_history, text_part, without_files
from hayhooks.integrations.a2a_tasks import Conversations, Tasks
from hayhooks.kernel.state import Deployment
from hayhooks.openai.bridge import chat_of
from hayhooks.openai.endpoint import parse_object

MAX_RUNNING = 1_000  # tasks at a time: they run on when their clients go away
MAX_VALUES = 10_000  # of JSON in a request: the SDK converts them on the event loop, in some 20 microseconds each
MAX_ID = 1_000  # characters of an id that a client chooses: each update has it

_INPUTS = ("text/plain", "application/json", "image/*", "audio/*", "application/octet-stream")
_CAPABILITIES = AgentCapabilities(streaming=True, push_notifications=False)
_VERSIONS = ("1.0", "0.3")  # of the protocol
# How protobuf tells of a field that there is not: its name, where it is, and those that there are.
_UNKNOWN_FIELD = re.compile(r'no field named "([^"]*)" at "AgentCard([^"]*)"[^\[]*\[([^\]]*)\]')
_PART_KINDS = {"1.0": ("text", "raw", "url", "data"), "0.3": ("text", "file", "data")}
_SCOPE = "hayhooks.scope"  # key in the state of a call: the scope of its request


class AgentServer:
    """ASGI app for the JSON-RPC of all agents of *app*; the request's deployment is the agent."""

    def __init__(self, app: Starlette) -> None:
        # The handler reads nothing of a card but the capabilities, which all agents share.
        self._handler = _Handler(_ChatExecutor(app), Tasks(), _new_card("agents", "All.", "1", ""))
        self._rpc = JsonRpcDispatcher(
            self._handler,
            _CallContexts(),
            enable_v0_3_compat=True,
            shutdown_grace_period=app.settings.graceful_shutdown_timeout,  # type: ignore[attr-defined]  # a Hayhooks
        )
        self._told: dict[str, str] = {}  # the revision of each deployment whose wrong card has been logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one JSON-RPC request."""
        body: dict[str, Any] | OpenAIError
        try:
            body = await read_json(scope, receive, parse_object)  # large ones off the event loop
        except OpenAIError as error:
            body = error
        problem = _call_problem(scope, body) if isinstance(body, dict) else None
        if problem is None:
            response = await self._rpc.handle_requests(_RPCRequest(scope, body))
        else:
            id_ = body.get("id") if isinstance(body, dict) else None
            response = JSONResponse(build_error_response(id_ if type(id_) in (int, str) else None, problem))
        await response(scope, receive, send)

    async def stop(self) -> None:
        """Cancel the tasks that run."""
        await self._handler.aclose()

    def card(self, deployment: Deployment, request: Request) -> dict[str, Any]:
        """Return the card of *deployment* as JSON, with URLs as the client of *request* sees the server."""
        return agent_card_to_dict(_card_of(deployment, request, self._own_fields(deployment)))

    async def card_response(self, deployment: Deployment, request: Request) -> Response:
        """Return the response with the card of *deployment*; 304 to a client that has it."""
        (route,) = create_agent_card_routes(_card_of(deployment, request, self._own_fields(deployment)))
        response: Response = await route.endpoint(request)
        return response

    def _own_fields(self, deployment: Deployment) -> AgentCard:
        """Return the fields of the wrapper's ``a2a_card``; none if it is wrong, which is logged once a revision."""
        name, revision = deployment.name, deployment.revision.id
        try:
            own: AgentCard = ParseDict(deployment.wrapper.a2a_card or {}, AgentCard())
            return own
        except BaseException as error:  # it is a wrapper's, and may be anything
            problem = str(error) if type(error) is ParseError else type_and_message(honest(error))
            if self._told.get(name) != revision:
                self._told[name] = revision
                log.error("{}: {}: its card is made without a2a_card", name, _card_problem(problem))
            return AgentCard()


def _call_problem(scope: Scope, call: dict[str, Any]) -> A2AError | None:
    """Return what is wrong with a JSON-RPC *call*, where the SDK does not say it, or takes it for an empty text."""
    if _has_more_values(call, MAX_VALUES):
        return InvalidParamsError(
            f"A request of A2A has at most {MAX_VALUES:,} values of JSON; send much data as a file"
        )
    method, sent = str(call.get("method")), Headers(scope=scope).get(VERSION_HEADER, "")
    version = "1.0" if method in JsonRpcDispatcher.METHOD_TO_MODEL else "0.3"
    if version == "0.3" and not method.startswith(("message/", "tasks/", "agent/")):
        return None
    major = re.match(r"\s*v?0*(\d+)", sent or PROTOCOL_VERSION_0_3, re.IGNORECASE)
    if major is None or not version.startswith(f"{major[1]}."):
        header = f"send the header {VERSION_HEADER}: {version}" + (f", not {shortened(sent)!r}" if sent else "")
        return VersionNotSupportedError(f"{method} is of version {version} of the protocol: {header}")
    message = params.get("message") if isinstance(params := call.get("params"), dict) else None
    parts = message.get("parts") if isinstance(message, dict) else None
    for index, part in enumerate(parts if isinstance(parts, list) else ()):
        kinds = _PART_KINDS[version]
        has_one = isinstance(part, dict) and ("data" in part or any(part.get(kind) is not None for kind in kinds))
        if not has_one:
            found = f"params.message.parts[{index}] is {shortened(json.dumps(part, ensure_ascii=False))}"
            return InvalidParamsError(f"{found}: it must be an object with one of {', '.join(kinds)}")
    return None


def _card_problem(error: str) -> str:
    """Return what is wrong with an ``a2a_card``, by the *error* of its parser."""
    if unknown := _UNKNOWN_FIELD.search(error):
        field, path, known = unknown.groups()
        names = known.replace("'", "").split(", ")
        meant = f"did you mean {close!r}?" if (close := closest(field, names)) else f"it may have {', '.join(names)}"
        return f"a2a_card{path} has no field {field!r}; {meant}"
    error = re.sub(r"repeated field (\w+) must be in \[\] which is", r"\1 must be a list and is", error)
    return f"a2a_card: {error.replace('AgentCard', 'a2a_card').rstrip('.')}"


def _card_of(deployment: Deployment, request: Request, own: AgentCard) -> AgentCard:
    chat = chat_of(deployment)
    about = deployment.description or (chat and (chat.description or chat.summary)) or f"Chat with {deployment.name}."
    url = f"{str(request.base_url).rstrip('/')}/{quote(deployment.name)}/a2a"
    card = _new_card(deployment.name, about, deployment.revision.id, url)
    for field, _ in own.ListFields():
        card.ClearField(field.name)
    card.MergeFrom(own)
    for skill in card.skills:
        skill.id, skill.name = skill.id or card.name, skill.name or card.name
        skill.description = skill.description or card.description
    if context_of(request.scope).api_key is not None:
        scheme = SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="Bearer"))
        card.security_schemes["bearer"].CopyFrom(scheme)
        card.security_requirements.append(SecurityRequirement(schemes={"bearer": StringList()}))
    return card


def _new_card(name: str, about: str, version: str, url: str) -> AgentCard:
    return AgentCard(
        name=name,
        description=about,
        version=version,
        capabilities=_CAPABILITIES,
        default_input_modes=_INPUTS,
        default_output_modes=["text/plain", "application/json"],
        supported_interfaces=[
            AgentInterface(url=url, protocol_binding=TransportProtocol.JSONRPC, protocol_version=each)
            for each in _VERSIONS
        ],
        skills=[AgentSkill(id="chat", name=name, description=about, tags=["chat", "haystack"])],
    )


def _has_more_values(body: dict[str, Any], limit: int) -> bool:
    """Whether there are more than *limit* values in *body*, lists and objects among them."""
    values: list[Any] = [body]
    counted = 0
    while values:
        value = values.pop()
        counted += 1
        if isinstance(value, dict | list):
            if counted + len(values) + len(value) > limit:
                return True
            values += value.values() if isinstance(value, dict) else value
    return False


class _Handler(DefaultRequestHandler):
    """The SDK's handler, for tasks that take one message each, and whose text the store has."""

    task_store: Tasks

    async def on_message_send(self, params: SendMessageRequest, context: ServerCallContext) -> Message | Task:
        await self._check(params.message, context)
        sent: Message | Task = await super().on_message_send(params, context)
        return sent

    async def on_message_send_stream(
        self, params: SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        await self._check(params.message, context)
        async with aclosing(super().on_message_send_stream(params, context)) as events:
            async for event in events:
                yield event

    async def on_subscribe_to_task(
        self, params: SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event, None]:
        async with aclosing(super().on_subscribe_to_task(params, context)) as events:
            async for event in events:
                whole = await self.task_store.get(params.id, context) if isinstance(event, Task) else None
                yield whole or event

    async def _check(self, message: Message, context: ServerCallContext) -> None:
        for name in ("message_id", "context_id", "task_id"):
            if len(getattr(message, name)) > MAX_ID:
                raise InvalidParamsError(f"The {name} of a message has at most {MAX_ID:,} characters")
        if message.task_id and await self.task_store.get(message.task_id, context) is not None:
            raise UnsupportedOperationError(
                f"Task {message.task_id} takes no further message: leave out the task's id, and go on with its context"
            )


class _RPCRequest(Request):
    """A request whose body has been parsed; the SDK answers what is not JSON with the protocol's error."""

    def __init__(self, scope: Scope, body: dict[str, Any] | OpenAIError) -> None:
        super().__init__(scope)
        self._parsed = body

    async def json(self) -> Any:
        if isinstance(self._parsed, OpenAIError):
            raise _NotJSONError(str(self._parsed), "", 0)
        return self._parsed


class _NotJSONError(json.JSONDecodeError):
    def __str__(self) -> str:
        return self.msg


class _Owner(User):
    """Whose tasks a client sees: those of its API key with the agent that it asks."""

    def __init__(self, scope: Scope) -> None:
        key = context_of(scope).api_key
        digest = hashlib.sha256(key.key.encode()).hexdigest()[:32] if key is not None else ""
        self._name = f"{deployment_of(scope).name}/{digest}"

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


class _CallContexts(DefaultServerCallContextBuilder):
    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        context.user = _Owner(request.scope)
        context.state[_SCOPE] = request.scope
        return context


class _ChatExecutor(AgentExecutor):
    """Runs a task: sends the message to the chat of the deployment, with those before it in its context."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._running = 0
        self._conversations = Conversations()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Publish the states of the task until it has ended."""
        message, call = context.message, context.call_context
        assert message is not None
        assert context.task_id is not None
        assert context.context_id is not None
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        kept = without_files(message)
        submitted = Task(
            id=context.task_id,
            context_id=context.context_id,
            status=TaskStatus(state=TaskState.TASK_STATE_SUBMITTED),
            history=[for_history(kept)],
        )
        submitted.status.timestamp.GetCurrentTime()
        await event_queue.enqueue_event(submitted)
        if self._running >= MAX_RUNNING:
            reason = f"This server runs {MAX_RUNNING:,} tasks already, and no more"
            await updater.reject(updater.new_agent_message([text_part(reason)]))
            return
        self._running += 1
        try:
            await self._run(updater, call, message, MessageToDict(kept))
        finally:
            self._running -= 1

    async def _run(self, updater: TaskUpdater, call: ServerCallContext, message: Message, kept: dict[str, Any]) -> None:
        await updater.start_work()
        scope = call.state[_SCOPE]
        name = deployment_of(scope).name
        conversation = (call.user.user_name, updater.context_id)
        turn = {"role": "user", "content": content_of(message)}
        body = {
            "model": name,
            "messages": [*self._conversations.messages(conversation), turn],
            "stream": True,
            "a2a": {
                "task_id": updater.task_id,
                "context_id": updater.context_id,
                "message": kept,
            },
        }
        reader = AnswerReader(updater)
        try:
            answer = await request_within(
                self._app, "POST", f"/{name}/chat", to_json(body), outer=scope, on_chunk=reader.write
            )
            problem = await reader.finish(answer)
        finally:
            reader.close()
        if problem:
            await updater.failed(updater.new_agent_message([text_part(problem)]))
            return
        answered = {"role": "assistant", "content": reader.text}
        self._conversations.add(conversation, [turn, answered], message.ByteSize() + len(reader.text))
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Publish that the task is cancelled; the SDK cancels ``execute`` after that, and so the request."""
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()
