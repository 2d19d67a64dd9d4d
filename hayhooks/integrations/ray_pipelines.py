"""Pipelines as Ray deployments: each has replicas of its own, and an ingress sends requests to them by name.

The ingress watches the directory. It imports wrappers and describes their methods, so all lists and pages of hayhooks
are its own, but runs no ``setup``: it has the deployer deploy each revision, and forwards the requests.
"""

import asyncio
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus
from starlette.types import Message, Receive, Scope, Send

from hayhooks.app import Hayhooks
from hayhooks.endpoints import BUILTIN
from hayhooks.errors import LoadError, UnavailableError
from hayhooks.http.context import context_of
from hayhooks.http.dispatch import Endpoints
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
_OURS = frozenset({b"x-request-id", b"x-hayhooks-revision"})


@dataclass(frozen=True, slots=True)
class Target:
    """One revision, as the replicas of its pipeline get it."""

    name: str
    fingerprint: str
    files: Mapping[str, bytes]  # by path below the pipelines directory
    root: str  # the pipelines directory
    ray_options: Mapping[str, Any]

    @classmethod
    def of(cls, revision: Revision, ray_options: Any) -> "Target":
        """Read the files of *revision*; raise LoadError if they are too large or no longer those that were scanned."""
        is_folder = revision.kind is RevisionKind.FOLDER
        if (size := sum(file.stamp.size for file in revision.files.values())) > _MAX_FOLDER:
            message = f"its files have {size:,} bytes, and at most {_MAX_FOLDER:,} are sent to replicas"
            raise LoadError(f"{message}: keep large data where all nodes can read it")
        files = {}
        for path, file in revision.files.items():
            content = file.source
            if content is None:
                content = (revision.path / path if is_folder else revision.path).read_bytes()
            if digest_of(content) != file.digest:
                raise LoadError(f"{path} has changed while it was read")
            files[f"{revision.name}/{path}" if is_folder else path] = content
        if not isinstance(ray_options, Mapping):
            raise LoadError(f"ray_options of the wrapper is {ray_options!r}: it must be a dict of options of Ray Serve")
        return cls(revision.name, revision.fingerprint, files, str(revision.path.parent), dict(ray_options))


class Pipeline(Replica):
    """One replica of one pipeline: it serves the revision that it was deployed with, whatever the directory has now."""

    def __init__(self, target: Target, settings: Mapping[str, Any], table: DeploymentHandle) -> None:
        self._target = target
        self._folder = tempfile.TemporaryDirectory(prefix="hayhooks-")
        for path, content in target.files.items():
            file = Path(self._folder.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        super().__init__(self._folder.name, {**settings, "watch_events": False}, table)

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
        """Return which revision this replica serves."""
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

    def __init__(self, settings: Mapping[str, Any], table: DeploymentHandle) -> None:
        self._settings = settings
        self._table = table
        self._prefix = serve.get_replica_context().app_name
        self._targets: dict[str, Target] = {}  # by name: what Ray was told last
        self._served: dict[str, Target] = {}  # the last ones of which all replicas have been ready
        self._failed: dict[str, tuple[str, float, FailureParts]] = {}  # fingerprint, when, and why
        self._submitting: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def deploy(self, target: Target) -> FailureParts | None:
        """Let the pipeline serve the revision *target*; return None when it does, else why it does not.

        Ray starts new replicas before it stops old ones. If they fail, it keeps the old ones, whose revision is made
        the target again.
        """
        name = target.name
        async with self._submitting[name]:
            fingerprint, failed_at, failure = self._failed.get(name, ("", 0.0, {}))
            if fingerprint == target.fingerprint and time.monotonic() - failed_at < _FAILED_S:
                return failure  # another replica of the ingress has had it tried
            if name not in self._targets and target.fingerprint == await self._running(name):
                self._targets[name] = target  # this deployer has been started again
            if name not in self._targets or self._targets[name].fingerprint != target.fingerprint:
                try:
                    await self._submit(target)
                except (TypeError, ValueError) as error:
                    return {"reason": f"ray_options of the wrapper: {error}"}
        return await self._outcome(target)

    async def remove(self, name: str) -> None:
        """Delete the application of the pipeline *name*, when its requests have ended."""
        async with self._submitting[name]:
            for known in (self._targets, self._served, self._failed):
                known.pop(name, None)
            await asyncio.to_thread(serve.delete, app_name(self._prefix, name), _blocking=False)

    async def __del__(self) -> None:
        """Delete the pipelines' applications with that of the ingress."""
        applications = (await asyncio.to_thread(serve.status)).applications
        ours = applications.get(self._prefix)
        if ours is not None and ours.status == ApplicationStatus.DELETING:
            for name in applications:
                if name.startswith(app_name(self._prefix, "")):
                    await asyncio.to_thread(serve.delete, name, _blocking=False)

    async def _running(self, name: str) -> str | None:
        """Return the fingerprint that a replica of the pipeline *name* serves, if there is one."""
        try:
            found: str = await serve.get_app_handle(app_name(self._prefix, name)).fingerprint.remote()
        except (RayError, RayServeException):
            return None
        return found

    async def _submit(self, target: Target) -> None:
        options = {"max_constructor_retry_count": 1, **target.ray_options}
        application = deployment(Pipeline, target.name, options).bind(target, self._settings, self._table)
        run = serve.RunTarget(application, name=app_name(self._prefix, target.name), route_prefix=None)
        self._targets[target.name] = target
        await asyncio.to_thread(serve.run_many, [run], wait_for_applications_running=False)

    async def _outcome(self, target: Target) -> FailureParts | None:
        """Wait until all replicas of *target* are ready, or one has failed."""
        name = target.name
        while True:
            status = (await asyncio.to_thread(serve.status)).applications.get(app_name(self._prefix, name))
            if name not in self._targets or self._targets[name].fingerprint != target.fingerprint:
                return {"reason": "another revision has taken its place before it was ready"}
            if status is not None and status.status == ApplicationStatus.RUNNING:
                self._served[name] = target
                return None
            if status is not None and status.status == ApplicationStatus.DEPLOY_FAILED:
                failure: FailureParts | None = await self._table.failure.remote(target.fingerprint)
                if failure is None:  # not by the wrapper's fault
                    messages = [each.message for each in status.deployments.values() if each.message]
                    failure = {"reason": "\n".join(messages or [status.message])}
                self._failed[name] = target.fingerprint, time.monotonic(), failure
                if name in self._served:
                    await self._submit(self._served[name])
                return failure
            await asyncio.sleep(_POLL_S)


def app_name(prefix: str, name: str) -> str:
    """Return the name of the Serve application of the pipeline *name*."""
    return f"{prefix}/{name}"


class Ingress(Replica):
    """A replica that watches the directory, and forwards requests to the replicas of the pipelines."""

    def __init__(
        self, pipelines_dir: str, settings: Mapping[str, Any], table: DeploymentHandle, deployer: DeploymentHandle
    ) -> None:
        self._deployer = deployer
        super().__init__(pipelines_dir, {"durable": "false", **settings}, table)

    def new_app(self, settings: Settings) -> Hayhooks:
        """Return the application of this replica."""
        return IngressApp(settings, self._deployer, serve.get_replica_context().app_name)


class IngressApp(Hayhooks):
    """An application whose pipelines run in other processes."""

    describes_only = True

    def __init__(self, settings: Settings, deployer: DeploymentHandle, prefix: str) -> None:
        super().__init__(settings, plug_ins=BUILTIN, observe=log_change)
        self._deployer = deployer
        self._prefix = prefix
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
        target = Target.of(deployed.revision, deployed.wrapper.ray_options)
        self._told[target.name] = target.fingerprint
        while True:
            try:
                failure = self._deployer.deploy.remote(target).result()
            except RayActorError:  # it has died, and Ray starts it again
                time.sleep(1)
            else:
                break
        if failure is not None:
            self._told[target.name] = ""  # the deployer has gone back to another
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._align)
        if failure is not None:
            raise LoadError(**failure)
        handle = serve.get_app_handle(app_name(self._prefix, target.name))
        return replace(endpoints, elsewhere=Forwarder(handle.options(stream=True), target))

    def _align(self, *_: Snapshot) -> None:
        """Have Ray serve what is live here, also where it was told of a revision that a newer load has superseded."""
        self._loop = asyncio.get_running_loop()
        snapshot = self.switch.live.snapshot
        for name, live in snapshot.deployments.items():
            if name not in snapshot.loading and self._told.get(name) != live.revision.fingerprint:
                self._told[name] = live.revision.fingerprint
                self._deployer.deploy.remote(live.endpoints.elsewhere.target)
        for name in (
            self._told.keys() - snapshot.deployments.keys() - snapshot.failures.keys() - snapshot.loading.keys()
        ):
            del self._told[name]
            self._deployer.remove.remote(name)


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

    async def body(self) -> bytes:
        """Return the whole body."""
        while not self._is_whole and (await self.receive())["type"] == "http.request":
            pass
        return b"".join(self._chunks)


class Forwarder:
    """ASGI app: send a request to a replica of one pipeline, and its response back as it comes."""

    def __init__(self, handle: DeploymentHandle, target: Target) -> None:
        self.target = target
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        recorded: RecordedRequest = scope[_RECORDED]
        context = context_of(scope)
        sent = {**recorded.scope, "headers": recorded.headers, "asgi": {"version": "3.0"}, INNER: context.api_key}
        has_begun = False
        response = self._handle.forwarded.remote(sent, await recorded.body())
        try:
            async for message in response:
                if message["type"] == "http.response.start":
                    has_begun = True
                    revision = [pair for pair in message["headers"] if pair[0] == b"x-hayhooks-revision"]
                    context.response_headers[:] = revision
                    message["headers"] = [pair for pair in message["headers"] if pair[0] not in _OURS]
                await send(message)
        except asyncio.CancelledError:
            response.cancel()
            raise
        except (RayError, RayServeException) as error:
            if has_begun:
                raise
            name = self.target.name
            raise UnavailableError(f"no replica of the pipeline {name!r} can answer: {type(error).__name__}") from error
