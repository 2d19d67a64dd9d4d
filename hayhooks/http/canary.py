"""Canary requests: choose for each request of a name whether its canary serves it.

All workers choose alike, also after a restart: a session, a client or a conversation stays with one revision.
"""

import random
from hashlib import blake2b

from starlette.types import Scope

from hayhooks.http.context import context_of
from hayhooks.kernel.state import Deployment, Snapshot

_SESSION = b"x-hayhooks-session"
_REVISION = b"x-hayhooks-revision"


def choose(scope: Scope, snapshot: Snapshot, name: str, conversation: bytes = b"") -> Deployment | None:
    """Return the deployment of *snapshot* that serves a request for *name*: its canary for a share of them.

    A request may name one of the two revisions. The share is one of sessions, by their header; else of API keys, if the
    server has several; else of conversations; else of requests.
    """
    serving, canary = snapshot.deployments.get(name), snapshot.canaries.get(name)
    if canary is None:
        return serving
    context = context_of(scope)
    wanted = context.headers.get(_REVISION, b"").decode("latin-1")
    for deployment in (serving, canary):
        if deployment is not None and deployment.revision.id == wanted:
            return deployment
    client = context.api_key.key.encode() if context.api_key is not None and len(scope["app"].keys) > 1 else b""
    stays = context.headers.get(_SESSION) or client or conversation
    if not stays:
        return canary if random.random() < canary.canary else serving  # noqa: S311 - no secret
    # With the revision: it is not always the same people who get what is new.
    digest = blake2b(stays, digest_size=8, key=canary.revision.fingerprint.encode()[:64]).digest()
    return canary if int.from_bytes(digest) < canary.canary * 2**64 else serving
