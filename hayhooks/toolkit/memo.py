"""Memo of components: within a durable attempt, what a pipeline's component returned is kept, and read again."""

import hashlib
import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from haystack import Pipeline
from haystack.utils import base_serialization as serialization

from hayhooks.toolkit.durable_scope import current_durable_context

_MARK = "_hayhooks_remembers"
_ABSENT = object()


def remember_components(pipeline: Any) -> None:
    """Wrap the ``run`` and ``run_async`` of each component of *pipeline*, once, if it is a Pipeline."""
    if not isinstance(pipeline, Pipeline):
        return
    for name, data in pipeline.graph.nodes(data=True):
        instance = data["instance"]
        if getattr(instance, _MARK, False):
            continue
        setattr(instance, _MARK, True)
        instance.run = _remembered(name, instance.run)
        if getattr(instance, "__haystack_supports_async__", False):
            instance.run_async = _remembered_async(name, instance.run_async)


def _remembered(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def remembered(**inputs: Any) -> Any:
        context = current_durable_context()
        key = _key(context, name, inputs)
        if context is None or key is None:
            return run(**inputs)
        if (known := _read(context, key)) is not _ABSENT:
            return known
        context.check_cancelled_sync()
        outputs = run(**inputs)
        if (value := _written(outputs)) is not None:
            context.wait(lambda: context.journal.keep(key, value))
        return outputs

    return remembered


def _remembered_async(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    async def remembered(**inputs: Any) -> Any:
        context = current_durable_context()
        key = _key(context, name, inputs)
        if context is None or key is None:
            return await run(**inputs)
        if (known := _read(context, key)) is not _ABSENT:
            return known
        await context.check_cancelled()
        outputs = await run(**inputs)
        if (value := _written(outputs)) is not None:
            await context.journal.keep(key, value)
        return outputs

    return remembered


def _key(context: Any, name: str, inputs: dict[str, Any]) -> str | None:
    """Return the key of one visit with these inputs; None outside of attempts, or if they cannot be written."""
    if context is None:
        return None
    context.visits[name] = visit = context.visits.get(name, 0) + 1
    written = _written(inputs)
    if written is None:
        return None
    digest = hashlib.sha256(json.dumps(written, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"memo:{name}#{visit}:{digest}"


def _read(context: Any, key: str) -> Any:
    if key not in context.journal.entries:
        return _ABSENT
    try:
        return serialization._deserialize_value_with_schema(context.journal.entries[key])
    except Exception:  # written by a class that is gone, or has changed: the component runs again
        return _ABSENT


def _written(values: Any) -> Any:
    """Return *values* as JSON; None if they cannot be written: the component then runs in each attempt."""
    try:
        written = serialization._serialize_value_with_schema(values)
        json.dumps(written, allow_nan=False)
    except Exception:  # the values are the user's
        return None
    return written
