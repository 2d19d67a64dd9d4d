"""The plug-ins that come with hayhooks; each is a module with ``server_routes`` and ``deployment_routes``."""

from collections.abc import Sequence

from hayhooks.endpoints import draw, health, metrics, run, status
from hayhooks.http.dispatch import PlugIn
from hayhooks.openai import chat, files, models, responses
from hayhooks.openapi import pages

BUILTIN: Sequence[PlugIn] = (run, chat, responses, files, health, models, status, metrics, pages, draw)
