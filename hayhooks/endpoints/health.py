"""``/healthz``: the process is alive. ``/readyz``: it can serve."""

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

from hayhooks.kernel.snapshot import Deployment, Snapshot
from hayhooks.router import Switch, switch_of


def server_routes(snapshot: Snapshot) -> Iterator[BaseRoute]:
    """Serve the two probes."""

    async def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> JSONResponse:
        reason = _why_not_ready(snapshot, switch_of(request.scope))
        if reason:
            return JSONResponse({"status": "not ready", "detail": reason}, status_code=503)
        return JSONResponse({"status": "ready"})

    yield Route("/healthz", healthz)
    yield Route("/readyz", readyz)


def deployment_routes(deployment: Deployment) -> Iterator[BaseRoute]:
    """Nothing below a deployment."""
    return iter(())


def _why_not_ready(snapshot: Snapshot, switch: Switch) -> str:
    if switch.stopping:
        return "the server is stopping"
    if switch.kernel is not None and not switch.kernel.alive:
        return "the deployer has ended: start the server again"
    if snapshot.problem:
        return snapshot.problem
    return "" if snapshot.ready else "the pipelines are being loaded for the first time"
