"""Compute: what plug-ins derive from a deployment, once, in threads of the server."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from hayhooks.kernel.state import Deployment
from hayhooks.kernel.threads import DaemonThreadPool, server_threads

T = TypeVar("T")


async def compute_once(
    deployment: Deployment, key: str, function: Callable[[], T], threads: DaemonThreadPool = server_threads
) -> T:
    """Return the result of *function*, kept in the deployment's cache by *key*.

    Its classes may make the call hang: then all who ask for the same wait for one thread. An error is not kept.
    """
    cache = deployment.runtime.cache
    future: Future[T] | None = cache.get(key)
    if future is None:
        future = cache[key] = threads.call(function)
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    finally:
        if future.done() and future.exception() is not None and cache.get(key) is future:
            del cache[key]
