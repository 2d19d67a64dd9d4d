"""The plug-ins that come with hayhooks; each is a module with ``server_routes`` and ``deployment_routes``."""

from collections.abc import Sequence

from hayhooks.endpoints import chat, docs, draw, files, health, metrics, models, responses, run, status
from hayhooks.router import PlugIn

BUILTIN: Sequence[PlugIn] = (run, chat, responses, files, health, models, status, metrics, docs, draw)
