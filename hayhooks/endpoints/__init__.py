"""The plug-ins that come with hayhooks, see ``hayhooks.http.plug_in`` for what a plug-in is."""

from collections.abc import Sequence

from hayhooks.endpoints import draw, health, metrics, run, status
from hayhooks.http.plug_in import PlugIn
from hayhooks.openai import chat, files, models, responses
from hayhooks.openapi import pages

BUILTIN: Sequence[PlugIn] = (run, chat, responses, files, health, models, status, metrics, pages, draw)
