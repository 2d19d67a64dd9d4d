"""Lookup: find the deployment that a request names, or the reason for its absence."""

import hashlib
from collections.abc import Iterable
from difflib import get_close_matches
from heapq import nsmallest
from itertools import islice
from typing import Any

from starlette.types import Scope

from hayhooks.errors import NotFoundError, OpenAIError, UnavailableError, shortened
from hayhooks.http.api_keys import refuse_call
from hayhooks.http.canary import choose
from hayhooks.http.context import context_of, record_pipeline
from hayhooks.kernel.state import Deployment, Snapshot

_MAX_CORRECTED = 100  # characters of a name
_MAX_COMPARED = 1_000  # names


async def wait_for_deployment(scope: Scope, name: str, conversation: bytes = b"") -> Deployment | None:
    """Return the live deployment *name*, if any; wait until a starting server knows.

    It is the canary for a share of the requests, and for all of a *conversation* or for none.

    Take the lease without an ``await`` in between: the deployment may be retired. Raises RefusedError for a name that
    the request's key may not call, whether there is one or not.
    """
    context = context_of(scope)
    refuse_call(context.api_key, name)
    snapshot = await context.switch.wait_until_known(name)
    if exists(snapshot, name):
        record_pipeline(context, name)
    return choose(scope, snapshot, name, conversation)


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
    close = _closest(name, snapshot.deployments)
    suggestion = f"; did you mean {close!r}?" if close else ""
    return NotFoundError(f"there is no pipeline {shortened(name)!r}{suggestion}")


def _closest(name: str, served: Iterable[str]) -> str | None:
    """Return the name in *served* that *name* may be a slip of, in about a millisecond however many there are."""
    if len(name) > _MAX_CORRECTED:
        return None
    characters, length = set(name), len(name)
    few = islice((other for other in served if len(other) <= _MAX_CORRECTED), _MAX_COMPARED)
    # Comparing a pair of names takes difflib some 20 microseconds, so it gets only those of like letters.
    likely = nsmallest(10, few, key=lambda other: len(characters ^ set(other)) + abs(length - len(other)))
    return next(iter(get_close_matches(name, likely, n=1)), None)


def model_not_served_error(snapshot: Snapshot, model: str) -> OpenAIError:
    """Return why *model*, a pipeline, is not served, for clients of OpenAI's API."""
    if not exists(snapshot, model):
        return model_not_found_error(model, _closest(model, snapshot.deployments))
    error = str(not_served_error(snapshot, model))
    return OpenAIError(503, error, type="server_error", param="model", code="model_not_ready")


def model_not_found_error(model: str, meant: str | None = None) -> OpenAIError:
    """Return that there is no *model*; *meant* is a model that there is."""
    message = f"The model {shortened(model)!r} does not exist" + (f"; did you mean {meant!r}?" if meant else "")
    return OpenAIError(404, message, param="model", code="model_not_found")


def serving_summary(snapshot: Snapshot) -> dict[str, Any]:
    """Summarize a worker's deployments; an equal ``revision`` means equal deployments."""
    all_served = "".join(f"{each.name}\0{each.revision.id}\0" for each in snapshot.loaded)
    revision = hashlib.blake2b(all_served.encode(errors="surrogateescape"), digest_size=6).hexdigest()
    return {"generation": snapshot.generation, "revision": revision, "ready": snapshot.ready and not snapshot.problem}
