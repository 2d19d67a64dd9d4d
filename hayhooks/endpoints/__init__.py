"""The built-in plug-ins; ``hayhooks.http.plug_in`` has the contract."""

from collections.abc import Sequence

from hayhooks.console import difference, events, history, markdown, numbers, page, traces
from hayhooks.endpoints import draw, executions, health, metrics, run, status
from hayhooks.http.plug_in import PlugIn
from hayhooks.integrations import a2a, mcp
from hayhooks.openai import chat, files, models, responses
from hayhooks.openapi import pages

BUILTIN: Sequence[PlugIn] = (
    run,
    executions,
    mcp,
    chat,
    responses,
    files,
    health,
    models,
    status,
    metrics,
    pages,
    draw,
    events,
    history,
    numbers,
    traces,
    markdown,
    difference,
    page,
    a2a,
)
