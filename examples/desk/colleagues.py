"""Other agents as tools: each gets a message by the Agent2Agent protocol, wherever it runs."""

import asyncio
import os
from typing import Annotated

from haystack.tools import tool

from hayhooks.settings import settings


@tool
def ask_calculator(question: Annotated[str, "what to calculate, in words or numbers"]) -> str:
    """Ask a colleague who calculates instead of guessing."""
    from .messages import ask  # noqa: PLC0415 - without the extra "a2a" the desk is served, and this tool fails

    url = os.environ.get("CALCULATOR_URL", f"http://127.0.0.1:{settings.port}/agent")  # the example beside this one
    return asyncio.run(ask(url, question))
