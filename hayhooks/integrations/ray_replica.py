"""Replica: an application of hayhooks as Ray Serve runs it, and the table of what all of them serve."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import quote

from ray import serve
from ray.serve import metrics
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hayhooks.app import Hayhooks, create_app
from hayhooks.http.lookup import serving_summary
from hayhooks.integrations.git_checkout import GitCheckout
from hayhooks.observability.log import log
from hayhooks.observability.metrics import BUCKETS
from hayhooks.observability.request_record import RequestRecord
from hayhooks.settings import Settings

_GONE_S = 30.0  # a replica that has not reported for so long is gone; Ray checks its health every 10 s
_MAX_FAILURES = 1_000
_TABLE_S = 2.0  # for which the table may take to answer

# What is an option of a replica's actor, and not of the deployment.
_ACTOR_OPTIONS = frozenset(
    {"accelerator_type", "fallback_strategy", "label_selector", "memory", "num_cpus", "num_gpus", "resources"}
    | {"runtime_env"}
)


def deployment(cls: type["Replica"], name: str, options: Mapping[str, Any]) -> serve.Deployment:
    """Return the deployment *name* of replicas of *cls*; *options* are those of both, deployment and actor.

    New replicas start before old ones stop, which finish their requests. Raises ValueError for options that Ray does
    not take.
    """
    ours = {"max_ongoing_requests": 100, "graceful_shutdown_timeout_s": 600, "max_surge_percent": 100}
    actor = {key: value for key, value in options.items() if key in _ACTOR_OPTIONS}
    own = {key: value for key, value in options.items() if key not in _ACTOR_OPTIONS}
    actor = {**own.pop("ray_actor_options", {}), **actor}
    try:
        return serve.deployment(serve.ingress()(cls)).options(name=name, ray_actor_options=actor, **(ours | own))
    except TypeError as error:  # an unknown name
        raise ValueError(f"Ray Serve does not take these options of a deployment: {error}") from None


def coordinator(cls: type, name: str) -> serve.Deployment:
    """Return the deployment *name* of the only instance of *cls*, which the replicas call."""
    return serve.deployment(cls).options(
        name=name,
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
        logging_config={"enable_access_log": False},
    )


class Replica:
    """One replica, which serves a pipelines directory; Ray runs its lifespan and sends it requests."""

    def __init__(self, pipelines_dir: str, settings: Mapping[str, Any], table: DeploymentHandle) -> None:
        self._checkout = GitCheckout.of(pipelines_dir)
        if self._checkout is not None:
            pipelines_dir = str(self._checkout.folder)
        self._settings = Settings(**{**settings, **({"pipelines_dir": pipelines_dir} if pipelines_dir else {})})
        self._table = table

    def new_app(self, settings: Settings) -> Hayhooks:
        """Return the application of this replica."""
        return create_app(settings)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Make the application, in the replica's process, for Ray to run."""
        _log_to_ray(self._settings.log)
        self._hayhooks = app = self.new_app(self._settings)
        app.hooks.on_request_end.append(_RayMetrics())
        self._reports = Reports(app, self._table)
        if self._checkout is not None:
            self._reports.begin(self._checkout.follow())
        return _without_request_id(app)

    async def check_health(self) -> None:
        """Raise if this replica cannot serve; the first call waits until everything in the directory is loaded."""
        switch = self._hayhooks.switch
        await switch.wait_until_ready()
        if switch.not_ready:
            raise RuntimeError(switch.not_ready)
        await self._reports.send()


class ReplicaTable:
    """What each replica serves, by its last report; one for all replicas."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, dict[str, Any]]] = {}
        self._failures: dict[str, Mapping[str, Any]] = {}

    async def report(self, replica: str, facts: dict[str, Any]) -> None:
        """Note the *facts* of a *replica*, in place of its earlier ones."""
        self._reports[replica] = time.monotonic(), facts

    async def report_failure(self, fingerprint: str, failure: Mapping[str, Any]) -> None:
        """Note why the revision *fingerprint* could not be loaded by a replica."""
        self._failures[fingerprint] = failure
        while len(self._failures) > _MAX_FAILURES:
            del self._failures[next(iter(self._failures))]

    async def failure(self, fingerprint: str) -> Mapping[str, Any] | None:
        """Return why the revision *fingerprint* could not be loaded, if a replica has said so."""
        return self._failures.get(fingerprint)

    async def forget(self, replica: str) -> None:
        """Remove a *replica* that stops."""
        self._reports.pop(replica, None)

    async def read(self) -> list[dict[str, Any]]:
        """Return the facts of all replicas that live, by deployment and replica."""
        oldest = time.monotonic() - _GONE_S
        self._reports = {replica: report for replica, report in self._reports.items() if report[0] > oldest}
        found = [{"replica": replica, **facts} for replica, (_, facts) in self._reports.items()]
        return sorted(found, key=lambda facts: (facts["deployment"], facts["replica"]))


class Reports:
    """Tells the table what this replica serves: at each change and each health check."""

    def __init__(self, app: Hayhooks, table: DeploymentHandle) -> None:
        context = serve.get_replica_context()
        self._app = app
        self._table = table
        self._replica = context.replica_tag
        name = (
            context.deployment if context.app_name == context.deployment else f"{context.app_name}/{context.deployment}"
        )
        self._deployment = name
        self._tasks: set[asyncio.Task[Any]] = set()
        app.replicas = self.read
        app.hooks.on_publish.append(lambda _: self.begin(self.send()))
        app.hooks.on_stop.append(lambda: self.begin(self._call("forget", self._replica)))

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run *work* in the background."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self) -> None:
        """Report what is served now."""
        await self._call("report", self._replica, self._facts())

    async def read(self) -> list[dict[str, Any]]:
        """Return what each replica serves; this one alone if the table does not answer."""
        mine = {"replica": self._replica, **self._facts()}
        others = await self._call("read") or []
        found = {each["replica"]: each for each in (*others, mine)}
        return sorted(found.values(), key=lambda each: (each["deployment"], each["replica"]))

    def _facts(self) -> dict[str, Any]:
        return {"deployment": self._deployment, **serving_summary(self._app.switch.live.snapshot)}

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await asyncio.wait_for(getattr(self._table, method).remote(*arguments), _TABLE_S)
        except Exception as error:  # it may be starting again on another node; what serves does not depend on it
            log.debug("The table of replicas does not answer: {}", error)


class _RayMetrics:
    """Counts requests in Ray's own metrics, which tag them with deployment and replica."""

    def __init__(self) -> None:
        self._requests = metrics.Counter(
            "hayhooks_requests", "Requests that have ended.", tag_keys=("pipeline", "endpoint", "status")
        )
        self._seconds = metrics.Histogram(
            "hayhooks_request_duration_seconds",
            "Time from a request's headers to the last byte of its answer.",
            boundaries=[*BUCKETS],
            tag_keys=("pipeline", "endpoint"),
        )

    def __call__(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        # Ray takes no other than ASCII: percent-encoded, as in a URL.
        tags = {"pipeline": quote(record.pipeline or "-"), "endpoint": quote(record.endpoint or "-", safe="/{}")}
        self._requests.inc(tags={**tags, "status": str(record.status)})
        self._seconds.observe(record.took_s, tags=tags)


def _log_to_ray(level: str) -> None:
    """Write the log of hayhooks, and Haystack's, where Ray writes that of the replica."""
    handlers = logging.getLogger("ray.serve").handlers
    log.remove()
    for handler in handlers:
        log.add(handler, level=level, format="{message}", backtrace=False, diagnose=False)
    logging.getLogger("haystack").handlers = handlers


def _without_request_id(app: ASGIApp) -> ASGIApp:
    """Return *app* without the id in its responses: Ray adds it, and has put it into the request."""

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [pair for pair in message["headers"] if pair[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_without)

    return served
