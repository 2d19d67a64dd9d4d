"""Pipelines as Ray deployments: each has replicas of its own, and an ingress sends requests to them by name.

The ingress watches the directory. It imports wrappers and describes their methods, so all lists and pages of hayhooks
are its own, but runs no ``setup``: it has the deployer deploy each revision, and forwards the requests.
"""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponse
from ray.serve.schema import ApplicationStatus
from starlette.types import Message, Receive, Scope, Send

from hayhooks.app import Hayhooks
from hayhooks.endpoints import BUILTIN
from hayhooks.errors import DisconnectedError, LoadError, UnavailableError
from hayhooks.http.context import BodyLimit, context_of
from hayhooks.http.disconnect import CLIENT_LEFT
from hayhooks.http.dispatch import Endpoints
from hayhooks.http.middleware import VARY
from hayhooks.http.within import INNER
from hayhooks.integrations.ray_replica import Replica, deployment
from hayhooks.kernel.state import Deployment, Revision, RevisionKind, Snapshot, digest_of
from hayhooks.observability.change_log import failure_text, log_change
from hayhooks.settings import Settings

FailureParts = Mapping[str, Any]  # the arguments of a LoadError

_MAX_FOLDER = 64 * 2**20  # bytes that are sent to each replica, through Ray's control store
_RECORDED = "hayhooks.ray"  # key in the scope: the request as it came
_SENT = (
    "type",
    "http_version",
    "method",
    "scheme",
    "server",
    "client",
    "root_path",
    "path",
    "raw_path",
    "query_string",
)
_FAILED_S = 60.0  # for which a revision that failed is not tried again
_POLL_S = 0.2
_RUNNING_S = 10.0  # for which a replica may take to say what it serves
_AGREE_S = 12.0  # after which all replicas of the ingress have seen a change, also of a repository
DEPLOYER = "deployer"  # the name of its deployment
SUPERSEDED: FailureParts = {"reason": "another replica of the ingress has put another revision in its place"}
OUTDATED: FailureParts = {"reason": "the configuration of the application has changed"}
_OURS = frozenset({b"x-request-id", b"x-hayhooks-revision"})


@dataclass(frozen=True, slots=True)
class Configuration:
    """Of the application: what ingress and deployer must agree on, though both are replaced when it changes."""

    pipelines_dir: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """One revision with the settings that it is served with, as the replicas of its pipeline get it."""

    name: str
    fingerprint: str  # of the revision and the settings
    files: Mapping[str, tuple[bytes, bool]]  # by path below the pipelines directory: content, and whether it may be run
    root: str  # the pipelines directory
    ray_options: Mapping[str, Any]
    configuration: "Configuration"

    @classmethod
    def of(cls, revision: Revision, ray_options: Any, configuration: "Configuration") -> "Target":
        """Read the files of *revision*; raise LoadError if they are too large or no longer those that were scanned."""
        is_folder = revision.kind is RevisionKind.FOLDER
        if (size := sum(file.stamp.size for file in revision.files.values())) > _MAX_FOLDER:
            message = f"its files have {size:,} bytes, and at most {_MAX_FOLDER:,} are sent to replicas"
            raise LoadError(f"{message}: keep large data where all nodes can read it")
        files = {}
        for path, file in revision.files.items():
            place = revision.path / path if is_folder else revision.path
            content = place.read_bytes() if file.source is None else file.source
            if digest_of(content) != file.digest:
                raise LoadError(f"{path} has changed while it was read")
            files[f"{revision.name}/{path}" if is_folder else path] = content, os.access(place, os.X_OK)
        if not isinstance(ray_options, Mapping):
            raise LoadError(f"ray_options of the wrapper is {ray_options!r}: it must be a dict of options of Ray Serve")
        settings = repr(sorted(configuration.settings.items()))
        fingerprint = digest_of(f"{revision.fingerprint} {settings}".encode()).hex()
        return cls(revision.name, fingerprint, files, str(revision.path.parent), dict(ray_options), configuration)


class Pipeline(Replica):
    """One replica of one pipeline: it serves the revision that it was deployed with, whatever the directory has now."""

    def __init__(self, target: Target, table: DeploymentHandle) -> None:
        self._target = target
        self._folder = tempfile.TemporaryDirectory(prefix="hayhooks-")
        for path, (content, may_be_run) in target.files.items():
            file = Path(self._folder.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755 if may_be_run else 0o644)
        super().__init__(self._folder.name, {**target.configuration.settings, "watch_events": False}, table)

    async def check_health(self) -> None:
        """Raise if this replica cannot serve, with the reason why the wrapper did not load."""
        snapshot = await self._hayhooks.switch.wait_until_ready()
        if failure := snapshot.failures.get(self._target.name):
            place = failure.place
            if place is not None:  # where its author looks
                place = replace(place, file=place.file.replace(self._folder.name, self._target.root, 1))
            parts = {"reason": failure.reason, "place": place, "hint": failure.hint}
            await self._table.report_failure.remote(self._target.fingerprint, parts)
            raise RuntimeError(f"pipeline {self._target.name!r} cannot be served: {failure_text(failure)}")
        await super().check_health()

    async def fingerprint(self) -> str:
        """Return which target this replica serves."""
        return self._target.fingerprint

    async def forwarded(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Serve one request of the ingress; yield the messages of its response."""
        unread: list[Message] = [{"type": "http.request", "body": body}]
        left = asyncio.Event()
        send_message, messages = anyio.create_memory_object_stream[Message](0)

        async def receive() -> Message:
            if unread:
                return unread.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def serving() -> None:
            async with send_message:
                await self._hayhooks(scope, receive, send_message.send)

        task = asyncio.create_task(serving())
        try:
            async with messages:
                async for message in messages:
                    yield message
            await task
        finally:
            left.set()
            await asyncio.wait({task})


class Deployer:
    """Deploys pipelines for all replicas of the ingress, as one Serve application each."""

    def __init__(self, configuration: Configuration, table: DeploymentHandle) -> None:
        self._configuration = configuration
        self._table = table
        self._prefix = serve.get_replica_context().app_name
        self._targets: dict[str, Target] = {}  # by name: what Ray was told last
        self._served: dict[str, Target] = {}  # the last ones of which all replicas have been ready
        self._failed: dict[str, tuple[str, float, FailureParts]] = {}  # fingerprint, when, and why
        self._changing = asyncio.Lock()  # of all names: Ray cannot pickle in two threads

    async def deploy(self, target: Target) -> FailureParts | None:
        """Let the pipeline serve *target*; return None when it does, else why it does not.

        Ray starts new replicas before it stops old ones. If they fail, it keeps the old ones, whose revision is made
        the target again.
        """
        name = target.name
        if target.configuration != self._configuration:
            return OUTDATED
        async with self._changing:
            if failure := self._failure_of(target):
                return failure
            if name not in self._targets and target.fingerprint == await self._running(name):
                self._targets[name] = target  # this deployer has been started again
            if name not in self._targets or self._targets[name].fingerprint != target.fingerprint:
                try:
                    await self._submit(target)
                except (TypeError, ValueError) as error:
                    return {"reason": f"ray_options of the wrapper: {error}"}
        while True:
            async with self._changing:
                if name not in self._targets or self._targets[name].fingerprint != target.fingerprint:
                    return self._failure_of(target) or SUPERSEDED
                is_over, outcome = await self._outcome(target)
            if is_over:
                return outcome
            await asyncio.sleep(_POLL_S)

    async def remove(self, name: str) -> None:
        """Delete the application of the pipeline *name*, when its requests have ended."""
        async with self._changing:
            for known in (self._targets, self._served, self._failed):
                known.pop(name, None)
            await asyncio.to_thread(serve.delete, app_name(self._prefix, name), _blocking=False)

    async def keep(self, names: Collection[str]) -> None:
        """Delete the applications of all other pipelines: their folders went while no ingress saw it."""
        kept = {app_name(self._prefix, name) for name in names}
        for name in (await asyncio.to_thread(serve.status)).applications:
            if name.startswith(app_name(self._prefix, "")) and name not in kept:
                await self.remove(unquote(name.removeprefix(app_name(self._prefix, ""))))

    async def __del__(self) -> None:
        """Delete the pipelines' applications with that of the ingress, and when it gets another shape."""
        ours = (await asyncio.to_thread(serve.status)).applications.get(self._prefix)
        if ours is not None and (ours.status == ApplicationStatus.DELETING or DEPLOYER not in ours.deployments):
            await self.keep(())

    def _failure_of(self, target: Target) -> FailureParts | None:
        """Return why *target* has just failed, also for another replica of the ingress."""
        fingerprint, failed_at, failure = self._failed.get(target.name, ("", 0.0, {}))
        is_recent = time.monotonic() - failed_at < _FAILED_S
        return failure if fingerprint == target.fingerprint and is_recent else None

    async def _running(self, name: str) -> str | None:
        """Return the fingerprint that a replica of the pipeline *name* serves, if there is one."""
        try:
            handle = serve.get_app_handle(app_name(self._prefix, name))
            found: str = await asyncio.wait_for(handle.fingerprint.remote(), _RUNNING_S)
        except (RayError, RayServeException, TimeoutError):
            return None
        return found

    async def _submit(self, target: Target) -> None:
        options = {"max_constructor_retry_count": 1, **target.ray_options}
        application = deployment(Pipeline, "pipeline", options).bind(target, self._table)
        run = serve.RunTarget(application, name=app_name(self._prefix, target.name), route_prefix=None)
        await asyncio.to_thread(serve.run_many, [run], wait_for_applications_running=False)
        self._targets[target.name] = target

    async def _outcome(self, target: Target) -> tuple[bool, FailureParts | None]:
        """Return whether it is known what has become of *target*, and why it does not serve."""
        name = target.name
        status = (await asyncio.to_thread(serve.status)).applications.get(app_name(self._prefix, name))
        if status is not None and status.status == ApplicationStatus.RUNNING:
            self._served[name] = target
            return True, None
        if status is None or status.status != ApplicationStatus.DEPLOY_FAILED:
            return False, None
        failure: FailureParts | None = await self._table.failure.remote(target.fingerprint)
        if failure is None:  # not by the wrapper's fault
            messages = [each.message for each in status.deployments.values() if each.message]
            failure = {"reason": "\n".join(messages or [status.message])}
        self._failed[name] = target.fingerprint, time.monotonic(), failure
        if name in self._served:
            await self._submit(self._served[name])
        return True, failure


def app_name(prefix: str, name: str) -> str:
    """Return the name of the Serve application of the pipeline *name*; other than ASCII ends Ray's controller."""
    return f"{prefix}/{quote(name)}"


class Ingress(Replica):
    """A replica that watches the directory, and forwards requests to the replicas of the pipelines."""

    def __init__(self, configuration: Configuration, table: DeploymentHandle, deployer: DeploymentHandle) -> None:
        self._configuration = configuration
        self._deployer = deployer
        super().__init__(configuration.pipelines_dir, {**configuration.settings, "durable": "false"}, table)

    def new_app(self, settings: Settings) -> Hayhooks:
        """Return the application of this replica."""
        return IngressApp(settings, self._configuration, self._deployer)


class IngressApp(Hayhooks):
    """An application whose pipelines run in other processes."""

    describes_only = True

    def __init__(self, settings: Settings, configuration: Configuration, deployer: DeploymentHandle) -> None:
        super().__init__(settings, plug_ins=BUILTIN, observe=log_change)
        self._configuration = configuration
        self._deployer = deployer
        self._prefix = serve.get_replica_context().app_name
        self._has_cleared = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: dict[str, str] = {}  # by name: the fingerprint that the deployer was given last
        self.hooks.on_publish.append(self._align)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and keep it as it came, to forward it."""
        if scope["type"] == "http":
            recorded = RecordedRequest(scope, receive)
            scope, receive = {**scope, _RECORDED: recorded}, recorded.receive
        await super().__call__(scope, receive, send)

    def build_routes(self, deployed: Deployment) -> Endpoints:
        """Have the revision deployed, and return routes that forward."""
        endpoints = super().build_routes(deployed)
        target = Target.of(deployed.revision, deployed.wrapper.ray_options, self._configuration)
        self._told[target.name] = target.fingerprint
        failure = self._deploy(target)
        if failure is not None and self._is_wanted(target):
            self._told[target.name] = ""  # the deployer has gone back to another
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._align)
        if failure is not None:
            raise LoadError(**failure)
        handle = serve.get_app_handle(app_name(self._prefix, target.name))
        form_limit = ("HAYHOOKS_MAX_UPLOAD_SIZE", self.settings.max_upload_size)
        return replace(endpoints, elsewhere=Forwarder(handle.options(stream=True), target, form_limit))

    def _deploy(self, target: Target) -> FailureParts | None:
        """Have *target* deployed, and again if another replica had another deployed, until it is not wanted here."""
        failure: FailureParts | None = SUPERSEDED
        while self._is_wanted(target):
            failure = self._ask(lambda: self._deployer.deploy.remote(target))
            if failure not in (SUPERSEDED, OUTDATED):
                break
            again_at = time.monotonic() + (_AGREE_S if failure == SUPERSEDED else 1)
            while self._is_wanted(target) and time.monotonic() < again_at:
                time.sleep(_POLL_S)
        return failure

    def _remove(self, name: str) -> None:
        if name not in self._told:
            self._ask(lambda: self._deployer.remove.remote(name))

    def _ask(self, call: Callable[[], DeploymentResponse[Any]]) -> Any:
        while True:
            try:
                return call().result()
            except (RayActorError, RayServeException):  # it has died or is replaced, and Ray starts another
                time.sleep(1)

    def _is_wanted(self, target: Target) -> bool:
        return self._told.get(target.name) == target.fingerprint

    def _align(self, *_: Snapshot) -> None:
        """Have Ray serve what is live here, also where it was told of a revision that a newer load has superseded."""
        self._loop = asyncio.get_running_loop()
        snapshot = self.switch.live.snapshot
        for name, live in snapshot.deployments.items():
            target = live.endpoints.elsewhere.target
            if name not in snapshot.loading and not self._is_wanted(target):
                self._told[name] = target.fingerprint
                self._begin(self._deploy, target)
        known = snapshot.deployments.keys() | snapshot.failures.keys() | snapshot.loading.keys()
        for name in self._told.keys() - known:
            del self._told[name]
            self._begin(self._remove, name)
        if snapshot.ready and not (snapshot.problem or self._has_cleared):
            self._has_cleared = True
            self._begin(self._ask, lambda: self._deployer.keep.remote({*known, *self._told}))

    @staticmethod
    def _begin(work: Callable[..., Any], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()


class RecordedRequest:
    """A request, and the part of its body that has been read."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = {key: scope[key] for key in _SENT if key in scope}
        self.headers = [pair for pair in scope["headers"] if pair[0] != b"origin"]  # the ingress is CORS
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
        """Return the whole body as it came; *receive* leads here, and has the limits of the server."""
        while not self._is_whole:
            if (await receive())["type"] == "http.disconnect":
                raise DisconnectedError(CLIENT_LEFT)
        return b"".join(self._chunks)


class Forwarder:
    """ASGI app: send a request to a replica of one pipeline, and its response back as it comes."""

    def __init__(self, handle: DeploymentHandle, target: Target, form_limit: BodyLimit) -> None:
        self.target = target
        self._handle = handle
        self._form_limit = form_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        recorded: RecordedRequest = scope[_RECORDED]
        context = context_of(scope)
        sent = {**recorded.scope, "headers": recorded.headers, "asgi": {"version": "3.0"}, INNER: context.api_key}
        has_begun = False
        if context.headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data"):
            context.body_limit = self._form_limit
        response = self._handle.forwarded.remote(sent, await recorded.body(receive))
        try:
            async for message in response:
                if message["type"] == "http.response.start":
                    has_begun = True
                    revision = [pair for pair in message["headers"] if pair[0] == b"x-hayhooks-revision"]
                    context.response_headers[:] = [
                        *revision,
                        *(pair for pair in context.response_headers if pair == VARY),
                    ]
                    message["headers"] = [pair for pair in message["headers"] if pair[0] not in _OURS and pair != VARY]
                await send(message)
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            if has_begun:
                raise
            name = self.target.name
            raise UnavailableError(f"no replica of the pipeline {name!r} can answer: {type(error).__name__}") from error
