"""Pipelines as Ray deployments: each is a Serve application with replicas of its own."""

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import anyio
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview
from starlette.types import Message, Scope

from hayhooks.errors import LoadError
from hayhooks.http.within import receive_of
from hayhooks.integrations.ray_replica import Replica, ray_deployment
from hayhooks.kernel.state import Revision, RevisionKind, Stamp, digest_of
from hayhooks.kernel.threads import Outcome
from hayhooks.observability.change_log import failure_text

FailureParts = Mapping[str, Any]  # the arguments of a LoadError

SUPERSEDED: FailureParts = {"reason": "another revision has taken its place before it was ready"}
ROLLOUTS = "rollouts"  # the Ray deployment of `Rollouts`
_MAX_FOLDER = 64 * 2**20  # bytes that each replica gets, through Ray's control store
_POLL_S = 0.2  # between two looks at how a rollout goes
_TRIES = 5  # to tell Ray of a version
_RETRY_S = 60.0  # after which the first revision of a pipeline is tried again, if it has failed
_ANSWER_S = 10.0  # timeout of a call to a replica


@dataclass(frozen=True, slots=True)
class ShippedRevision:
    """A revision with its files, as the replicas of its pipeline get it."""

    name: str
    fingerprint: str
    # By path below the pipelines directory: content, and whether it may be run.
    files: Mapping[str, tuple[bytes, bool]] = field(repr=False)
    root: str  # the pipelines directory
    ray_options: Mapping[str, Any]

    @classmethod
    def of(cls, revision: Revision, ray_options: Any) -> "ShippedRevision":
        """Read the files of *revision*; raise LoadError if they are too large, or no longer those that were scanned."""
        if not isinstance(ray_options, Mapping):
            raise LoadError(f"ray_options of the wrapper is {ray_options!r}: it must be a dict of options of Ray Serve")
        if (size := sum(file.stamp.size for file in revision.files.values())) > _MAX_FOLDER:
            message = f"its files have {size:,} bytes, and at most {_MAX_FOLDER:,} are sent to replicas"
            raise LoadError(f"{message}: keep large data where all nodes can read it")
        is_folder = revision.kind is RevisionKind.FOLDER
        files = {}
        for path, file in revision.files.items():
            origin = revision.path / path if is_folder else revision.path
            content = file.source if file.source is not None else origin.read_bytes()
            # Of large files the scan knows the stamp alone.
            if digest_of(content) != file.digest and Stamp.at(str(origin)) != file.stamp:
                raise LoadError(f"{path} has changed while it was read")
            files[f"{revision.name}/{path}" if is_folder else path] = content, os.access(origin, os.X_OK)
        return cls(revision.name, revision.fingerprint, files, str(revision.path.parent), dict(ray_options))


class Pipeline(Replica):
    """One replica of one pipeline: it serves the revision that it was deployed with."""

    def __init__(
        self,
        shipped: ShippedRevision,
        version: str,
        settings: Mapping[str, Any],
        registry: DeploymentHandle,
        ingress: str,
    ) -> None:
        self._shipped = shipped
        self._version = version
        self._rollouts = serve.get_deployment_handle(ROLLOUTS, app_name=ingress)
        self._folder = tempfile.TemporaryDirectory(prefix="hayhooks-")
        for path, (content, may_be_run) in shipped.files.items():
            file = Path(self._folder.name, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755 if may_be_run else 0o644)
        super().__init__(self._folder.name, {**settings, "watch_events": False}, registry)

    def __del__(self) -> None:
        """Remove the files: Ray kills the process."""
        self._folder.cleanup()

    async def check_health(self) -> None:
        """Raise if this replica does not serve; report why the wrapper did not load."""
        snapshot = await self._hayhooks.switch.wait_until_loaded()
        name = self._shipped.name
        failure = snapshot.failures.get(name)
        if failure is not None and name not in snapshot.deployments:
            place = failure.place
            if place is not None:  # where its author looks
                place = replace(place, file=place.file.replace(self._folder.name, self._shipped.root, 1))
            parts = {"reason": failure.reason, "place": place, "hint": failure.hint, "traceback": failure.traceback}
            await self._rollouts.report_failure.remote(name, self._version, parts)
            raise RuntimeError(f"pipeline {name!r} cannot be served: {failure_text(failure)}")
        await super().check_health()

    async def version(self) -> str:
        """Return what this replica was deployed as."""
        return self._version

    async def forwarded(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Serve one request of the ingress; yield the messages of its response."""
        left = asyncio.Event()
        send_message, messages = anyio.create_memory_object_stream[Message](0)

        async def serve_request() -> None:
            async with send_message:
                await self._hayhooks(scope, receive_of(body, left), send_message.send)

        # A task of its own: a wrapper may raise SystemExit, and its clean-up must not be cancelled again and again.
        serving = asyncio.create_task(Outcome.awaited(serve_request()))
        try:
            async with messages:
                async for message in messages:
                    yield message
            (await serving).unwrap()
        finally:
            left.set()
            await asyncio.wait({serving})


@dataclass(eq=False, slots=True)
class Rollout:
    """One version of one pipeline, on its way to Ray's replicas."""

    version: str
    result: "asyncio.Task[FailureParts | None]"
    failed_at: float = 0.0


class Rollouts:
    """Deploys pipelines for all replicas of the ingress, as one Serve application each; there is one for all."""

    def __init__(self, settings: Mapping[str, Any], registry: DeploymentHandle) -> None:
        self._settings = settings
        self._registry = registry
        self._ingress = serve.get_replica_context().app_name
        self._newest: dict[str, Rollout] = {}  # by name
        self._told: dict[str, str] = {}  # by name: the version that Ray was told last
        self._served: dict[str, tuple[ShippedRevision, str]] = {}  # what all replicas were ready with, and its version
        self._failures: dict[str, tuple[str, FailureParts]] = {}  # by name: what a replica has reported, and of which
        self._lock = asyncio.Lock()  # of what Ray is told: it cannot pickle in two threads

    async def deploy(self, shipped: ShippedRevision) -> FailureParts | None:
        """Let the pipeline serve the revision *shipped*; return None when it does, else why it does not.

        Ray starts new replicas before it stops old ones. If they fail, it keeps the old ones, and is told of their
        revision again.
        """
        name = shipped.name
        options = json.dumps([self._settings, shipped.ray_options], sort_keys=True, default=repr)
        version = hashlib.blake2b(f"{shipped.fingerprint} {options}".encode(), digest_size=16).hexdigest()
        newest = self._newest.get(name)
        is_due = newest is None or newest.version != version
        if newest is not None and newest.failed_at and name not in self._served:
            is_due |= time.monotonic() - newest.failed_at > _RETRY_S
        if newest is not None and newest.result.done():
            is_due |= newest.result.exception() is not None  # of Ray itself
        if is_due:
            rolling_out = asyncio.create_task(self._roll_out(shipped, version))
            newest = self._newest[name] = Rollout(version, rolling_out)
        assert newest is not None
        return await asyncio.shield(newest.result)

    async def remove(self, name: str) -> None:
        """Delete the application of the pipeline *name*, when its requests have ended."""
        async with self._lock:
            for known in (self._newest, self._told, self._served, self._failures):
                known.pop(name, None)
            await asyncio.to_thread(serve.delete, self._application(name), _blocking=False)

    async def keep(self, names: set[str]) -> None:
        """Delete the applications of all other pipelines: their folders went while no ingress saw it."""
        for application in (await asyncio.to_thread(serve.status)).applications:
            name = unquote(application.removeprefix(self._application("")))
            if application == self._application(name) and name not in names:
                await self.remove(name)

    async def report_failure(self, name: str, version: str, failure: FailureParts) -> None:
        """Note why a replica of the pipeline *name* could not load that version."""
        self._failures[name] = version, failure

    async def __del__(self) -> None:
        """Delete the pipelines' applications with that of the ingress."""
        ours = (await asyncio.to_thread(serve.status)).applications.get(self._ingress)
        if ours is None or ours.status == ApplicationStatus.DELETING or ROLLOUTS not in ours.deployments:
            await self.keep(set())

    def _application(self, name: str) -> str:
        return application_name(self._ingress, name)

    async def _roll_out(self, shipped: ShippedRevision, version: str) -> FailureParts | None:
        name = shipped.name
        async with self._lock:
            if self._is_superseded(name, version):
                return SUPERSEDED
            try:
                await self._tell_if_new(shipped, version)
            except (TypeError, ValueError) as error:
                return self._failed(name, {"reason": f"ray_options of the wrapper: {error}"})
        while True:
            await asyncio.sleep(_POLL_S)
            status = (await asyncio.to_thread(serve.status)).applications.get(self._application(name))
            async with self._lock:
                if self._is_superseded(name, version):
                    return SUPERSEDED
                if status is not None and status.status == ApplicationStatus.RUNNING:
                    self._served[name] = shipped, version
                    return None
                if status is not None and status.status == ApplicationStatus.DEPLOY_FAILED:
                    return await self._fall_back(name, version, status)

    async def _fall_back(self, name: str, version: str, status: ApplicationStatusOverview) -> FailureParts:
        """Tell Ray of what served before; return why *version* does not."""
        reported, failure = self._failures.pop(name, ("", {}))
        if reported != version:  # it is not the wrapper's fault
            messages = [each.message for each in status.deployments.values() if each.message]
            failure = {"reason": "\n".join(messages or [status.message])}
        del self._told[name]
        if name in self._served:
            await self._tell(*self._served[name])
        return self._failed(name, failure)

    def _failed(self, name: str, failure: FailureParts) -> FailureParts:
        self._newest[name].failed_at = time.monotonic()
        return failure

    async def _tell_if_new(self, shipped: ShippedRevision, version: str) -> None:
        name = shipped.name
        if name not in self._told and version == await self._running(name):
            self._told[name] = version  # this process has been started again
        if self._told.get(name) != version:
            await self._tell(shipped, version)

    def _is_superseded(self, name: str, version: str) -> bool:
        return name not in self._newest or self._newest[name].version != version

    async def _running(self, name: str) -> str | None:
        """Return the version that a replica of the pipeline *name* serves, if one answers."""
        try:
            handle = serve.get_app_handle(self._application(name))
            found: str = await asyncio.wait_for(handle.version.remote(), _ANSWER_S)
        except (RayActorError, RayServeException, TimeoutError):
            return None
        return found

    async def _tell(self, shipped: ShippedRevision, version: str) -> None:
        """Tell Ray what the application of a pipeline is to be, without waiting for it."""
        options = {"max_constructor_retry_count": 1, **shipped.ray_options}
        for left in reversed(range(_TRIES)):
            try:
                replicas = ray_deployment(Pipeline, "pipeline", options)
                application = replicas.bind(shipped, version, self._settings, self._registry, self._ingress)
                target = serve.RunTarget(application, name=self._application(shipped.name), route_prefix=None)
                await asyncio.to_thread(serve.run_many, [target], wait_for_applications_running=False)
                break
            except ValueError:
                # Wrong options, or a thread of Ray pickles at the same moment: "not registered for pickle by value".
                if not left:
                    raise
                await asyncio.sleep(_POLL_S)
        self._told[shipped.name] = version


def application_name(ingress: str, name: str) -> str:
    """Return the name of the Serve application of the pipeline *name*; others than ASCII would end Ray's controller."""
    return f"{ingress}/{quote(name)}"
