"""Test wrappers: a client that serves them in the test's process, an execution in memory, and a component for tests."""

from hayhooks.testing.answer import ChatAnswer
from hayhooks.testing.client import Client, client
from hayhooks.testing.execution import Execution

__all__ = ["ChatAnswer", "Client", "Execution", "client"]
