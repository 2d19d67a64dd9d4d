"""Lookup: find the deployment that a request names, or the reason for its absence."""

import hashlib
from difflib import get_close_matches
from typing import Any

from starlette.types import Scope

from hayhooks.errors import NotFoundError, OpenAIError, UnavailableError
from hayhooks.http.context import record_pipeline, switch_of
from hayhooks.kernel.state import Deployment, Snapshot


async def wait_for_deployment(scope: Scope, name: str) -> Deployment | None:
    """Return the live deployment *name*, if any; wait until a starting server knows.

    Take the lease without an ``await`` in between: the deployment may be retired.
    """
    snapshot = await switch_of(scope).wait_until_known(name)
    if exists(snapshot, name):
        record_pipeline(scope, name)
    return snapshot.deployments.get(name)


def exists(snapshot: Snapshot, name: str) -> bool:
    """Whether the directory has *name*, even if it cannot serve."""
    return name in snapshot.deployments or name in snapshot.failures or name in snapshot.loading


def not_served_error(snapshot: Snapshot, name: str) -> NotFoundError | UnavailableError:
    """Return why *name* is not served."""
    failure = snapshot.failures.get(name)
    if name in snapshot.loading:
        return UnavailableError(f"pipeline {name!r} is being loaded")
    if failure is not None:
        return UnavailableError(f"pipeline {name!r} failed to load: {failure.reason}")
    close = get_close_matches(name, snapshot.deployments, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return NotFoundError(f"there is no pipeline {name!r}{suggestion}")


def model_not_served_error(snapshot: Snapshot, model: str) -> OpenAIError:
    """Return why *model*, a pipeline, is not served, for clients of OpenAI's API."""
    error = not_served_error(snapshot, model)
    if isinstance(error, NotFoundError):
        return OpenAIError(404, f"The model {model!r} does not exist", param="model", code="model_not_found")
    return OpenAIError(503, str(error), type="server_error", param="model", code="model_not_ready")


def serving_summary(snapshot: Snapshot) -> dict[str, Any]:
    """Summarize a worker's deployments; an equal ``revision`` means equal deployments."""
    all_served = "".join(f"{name}\0{d.revision.fingerprint}\0" for name, d in snapshot.deployments.items())
    revision = hashlib.blake2b(all_served.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    return {"generation": snapshot.generation, "revision": revision, "ready": snapshot.ready and not snapshot.problem}
