"""Ingress: watches the directory, has each pipeline deployed on Ray, and forwards requests to their replicas by name.

It imports wrappers and describes their methods, so that all lists and pages of hayhooks are its own, but runs no
``setup``.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from hayhooks.app import Hayhooks
from hayhooks.endpoints import BUILTIN
from hayhooks.errors import LoadError, UnavailableError
from hayhooks.http.context import BodyLimit, context_of
from hayhooks.http.dispatch import Endpoints
from hayhooks.http.middleware import VARY
from hayhooks.http.within import INNER
from hayhooks.integrations.ray_pipelines import ROLLOUTS, SUPERSEDED, FailureParts, ShippedRevision, application_name
from hayhooks.integrations.ray_replica import Replica
from hayhooks.kernel.state import Deployment
from hayhooks.observability.change_log import log_change
from hayhooks.observability.log import log
from hayhooks.settings import Settings

_CALLS = 60  # of `Rollouts` that may fail, a second apart, while Ray starts it again
_RECORDED = "hayhooks.ray"  # key in the scope: the request as it came
_SENT = (
    *("type", "http_version", "method", "scheme", "server", "client"),
    *("root_path", "path", "raw_path", "query_string"),
)


class Ingress(Replica):
    """A replica that watches the directory, and forwards requests to the replicas of the pipelines."""

    def __init__(
        self, pipelines_dir: str, settings: Mapping[str, Any], registry: DeploymentHandle, rollouts: DeploymentHandle
    ) -> None:
        self._rollouts = rollouts
        super().__init__(pipelines_dir, {**settings, "durable": "false"}, registry)

    def new_app(self, settings: Settings) -> Hayhooks:
        """Return the application of this replica."""
        return IngressApp(settings, self._rollouts, serve.get_replica_context().app_name)


class IngressApp(Hayhooks):
    """An application whose pipelines run in other processes."""

    describe_only = True

    def __init__(self, settings: Settings, rollouts: DeploymentHandle, ingress: str) -> None:
        super().__init__(settings, plug_ins=BUILTIN, observe=log_change)
        self._rollouts = rollouts
        self._ingress = ingress
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deployed: dict[str, str] = {}  # by name: the fingerprint that `Rollouts` got last from here
        self._names: set[str] | None = None  # of all that is in the directory; None until it has been read
        self._tasks: set[asyncio.Task[None]] = set()
        self.hooks.on_publish.append(lambda _: self._align())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and keep it as it came, to forward it."""
        self._loop = self._loop or asyncio.get_running_loop()  # the lifespan comes first
        if scope["type"] == "http":
            recorded = RecordedRequest(scope, receive)
            scope, receive = {**scope, _RECORDED: recorded}, recorded.receive
        await super().__call__(scope, receive, send)

    def build_routes(self, deployment: Deployment) -> Endpoints:
        """Have the revision deployed on Ray, and return routes that forward."""
        assert self._loop is not None
        endpoints = super().build_routes(deployment)
        shipped = ShippedRevision.of(deployment.revision, deployment.wrapper.ray_options)
        self._deployed[shipped.name] = shipped.fingerprint
        failure = self._deploy(shipped)
        if failure is not None:
            self._deployed[shipped.name] = ""  # Ray was told of another one
        self._loop.call_soon_threadsafe(self._align)
        if failure is not None:
            raise LoadError(**failure)
        handle = serve.get_app_handle(application_name(self._ingress, shipped.name))
        form_limit = ("HAYHOOKS_MAX_UPLOAD_SIZE", self.settings.max_upload_size)
        return replace(endpoints, forward_to=Forwarder(handle, shipped, form_limit))

    def _deploy(self, shipped: ShippedRevision) -> FailureParts | None:
        """Have *shipped* deployed; again where another ingress, which saw a change later, had another deployed."""
        assert self._loop is not None
        while True:
            asked = asyncio.run_coroutine_threadsafe(self._ask("deploy", shipped), self._loop)
            failure: FailureParts | None = asked.result()
            if failure != SUPERSEDED or not self._is_on_disk(shipped.name, shipped.fingerprint):
                return failure
            time.sleep(1)

    def _is_on_disk(self, name: str, fingerprint: str) -> bool:
        """Whether the directory has that revision now."""
        found = self.reconciler.found(name) if self.reconciler is not None else None
        return found is not None and found.fingerprint == fingerprint

    def _align(self) -> None:
        """Have Ray serve what is live here and in the directory, where it was told of a revision in between.

        And have the applications of pipelines deleted that are no longer in the directory.
        """
        snapshot = self.switch.live.snapshot
        for name, live in snapshot.deployments.items():
            fingerprint = live.revision.fingerprint
            is_other = name not in snapshot.loading and self._deployed.get(name) != fingerprint
            if is_other and self._is_on_disk(name, fingerprint):
                self._deployed[name] = fingerprint
                self._begin("deploy", live.endpoints.forward_to.shipped)
        if not snapshot.ready or snapshot.problem:
            return
        names = {*snapshot.deployments, *snapshot.failures, *snapshot.loading}
        if self._names is None:
            self._begin("keep", names)  # what was removed while no ingress ran
        for name in (self._names or set()) - names:
            self._deployed.pop(name, None)
            self._begin("remove", name)
        self._names = names

    def _begin(self, method: str, argument: Any) -> None:
        """Call *method* of ``Rollouts`` in the background."""

        async def call() -> None:
            try:
                await self._ask(method, argument)
            except LoadError as error:
                log.warning("{}: {}({}) is not done", error, method, argument)

        task = asyncio.ensure_future(call())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, method: str, argument: Any) -> Any:
        """Return what *method* of ``Rollouts`` returns, which has a minute to start again; raise LoadError after it."""
        for _ in range(_CALLS):
            try:
                return await getattr(self._rollouts, method).remote(argument)
            except (RayActorError, RayServeException):  # its process has died or is replaced, and Ray starts another
                await asyncio.sleep(1)
        raise LoadError(f"the Ray deployment {ROLLOUTS!r} does not answer: `serve status` says why")


class RecordedRequest:
    """A request as it came, and the part of its body that has been read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = {key: scope[key] for key in _SENT if key in scope}
        self.headers = [pair for pair in scope["headers"] if pair[0] != b"origin"]  # the ingress does CORS
        self._receive = receive
        self._chunks: list[bytes] = []
        self._is_whole = False

    async def receive(self) -> Message:
        """Return the next message of the request."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._chunks.append(message.get("body", b""))
            self._is_whole = not message.get("more_body")
        return message

    async def body(self, receive: Receive) -> bytes:
        """Return the whole body; *receive*, which limits it, reads the rest."""
        while not self._is_whole:
            if (await receive())["type"] == "http.disconnect":
                raise ClientDisconnect
        return b"".join(self._chunks)


class Forwarder:
    """ASGI app: send a request to a replica of one pipeline, and its response back as it comes."""

    def __init__(self, handle: DeploymentHandle, shipped: ShippedRevision, form_limit: BodyLimit) -> None:
        self.shipped = shipped
        self._form_limit = form_limit
        self._handle = handle.options(stream=True, method_name="forwarded")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        recorded: RecordedRequest = scope[_RECORDED]
        context = context_of(scope)
        sent = {**recorded.scope, "headers": recorded.headers, "asgi": {"version": "3.0"}, INNER: context.api_key}
        if context.headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data"):
            context.body_limit = self._form_limit
        body = await recorded.body(receive)
        # The replica's headers say which revision it serves, and are not those for other origins.
        context.response_headers[:] = [pair for pair in context.response_headers if pair == VARY]
        response, has_begun = self._handle.remote(sent, body), False
        try:
            async for message in response:
                has_begun = True
                if "headers" in message:
                    message["headers"] = [pair for pair in message["headers"] if pair != VARY]
                await send(message)
        except (RayActorError, RayServeException) as error:
            if has_begun:
                raise
            name = self.shipped.name
            raise UnavailableError(f"no replica of the pipeline {name!r} can answer: {type(error).__name__}") from error
        except BaseException:  # the client has left, or takes no more
            response.cancel()
            raise
