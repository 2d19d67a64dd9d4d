"""Memo of components: within a durable attempt, what a pipeline's component returned is kept, and read again."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from haystack import Pipeline
from haystack.utils import base_serialization as serialization
from loguru import logger as log

from hayhooks.toolkit.durable import DurableContext
from hayhooks.toolkit.durable_scope import current_durable_context
from hayhooks.toolkit.journal import PayloadError

MARK = "_hayhooks_remembers"  # an attribute of components and agents that are remembered
_ABSENT = object()
_ANY_PACKAGE = "_hayhooks_package."  # in what is kept, for the package of the revision that has written it


def remember_components(pipeline: Any) -> None:
    """Wrap the ``run`` and ``run_async`` of each component of *pipeline*, once, if it is a Pipeline."""
    if not isinstance(pipeline, Pipeline):
        return
    for name, data in pipeline.graph.nodes(data=True):
        instance = data["instance"]
        if getattr(instance, MARK, False):
            continue
        try:
            setattr(instance, MARK, True)
            instance.run = _remembered(name, instance.run)
            if getattr(instance, "__haystack_supports_async__", False):
                instance.run_async = _remembered_async(name, instance.run_async)
        except AttributeError:  # it has slots: it runs in each attempt
            continue


def _remembered(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def remembered(*args: Any, **inputs: Any) -> Any:
        context = current_durable_context()
        # On the event loop, which the component blocks, nothing can wait for the journal.
        if context is None or args or not context.remembers(name) or context.is_on_loop():
            return run(*args, **inputs)
        key = key_of(context, name, inputs)
        if (known := _read(context, key)) is not _ABSENT:
            return known
        context.check_cancelled_sync()
        outputs = run(**inputs)
        if key is not None and (value := _written(context, outputs)) is not None:
            context.wait(lambda: _keep(context, key, value))
        return outputs

    return remembered


def _remembered_async(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    async def remembered(*args: Any, **inputs: Any) -> Any:
        context = current_durable_context()
        if context is None or args or not context.remembers(name):
            return await run(*args, **inputs)
        # Large values would take the loop's time.
        key = await asyncio.to_thread(key_of, context, name, inputs)
        if (known := await asyncio.to_thread(_read, context, key)) is not _ABSENT:
            return known
        await context.check_cancelled()
        outputs = await run(**inputs)
        if key is not None and (value := await asyncio.to_thread(_written, context, outputs)) is not None:
            await _keep(context, key, value)
        return outputs

    return remembered


def in_any_package(context: DurableContext, value: Any) -> Any:
    """Return JSON with names of classes that each revision of the wrapper knows."""
    if not context.package:
        return value
    return json.loads(json.dumps(value).replace(f'"{context.package}.', f'"{_ANY_PACKAGE}'))


def in_package(context: DurableContext, value: Any) -> Any:
    """Return what ``in_any_package`` has returned with the names that the running revision knows."""
    if not context.package:
        return value
    return json.loads(json.dumps(value).replace(f'"{_ANY_PACKAGE}', f'"{context.package}.'))


def key_of(context: DurableContext, name: str, inputs: dict[str, Any]) -> str | None:
    """Return the key of a visit with these inputs; None if they cannot be written."""
    value = _written(context, inputs)
    if value is None:
        return None
    digest = hashlib.sha256(json.dumps([context.place, value], sort_keys=True).encode("utf-8", "surrogatepass"))
    visit = f"{name}#{{}}:{digest.hexdigest()[:32]}"
    return "memo:" + visit.format(context.number(visit))


def _read(context: DurableContext, key: str | None) -> Any:
    if key is None or key not in context.journal.entries:
        return _ABSENT
    try:
        value = in_package(context, context.journal.entries[key])
        return serialization._deserialize_value_with_schema(value)
    except Exception:  # the component runs again
        return _ABSENT


def _written(context: DurableContext, value: Any) -> Any:
    """Return *value* as JSON; None if it would not be the same when it is read."""
    try:
        with_schema = serialization._serialize_value_with_schema(value)
        # Keys of dicts that are no text, and tuples in a `to_dict`, are others afterwards.
        if json.loads(json.dumps(with_schema, allow_nan=False)) != with_schema:
            return None
    except Exception:  # the value is the user's
        return None
    return in_any_package(context, with_schema)


async def _keep(context: DurableContext, key: str, value: Any) -> None:
    try:
        await context.journal.keep(key, value)
    except PayloadError as error:
        log.info("Execution {}: the component runs again in each attempt, for {}", context.execution_id, error)
