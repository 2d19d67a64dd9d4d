"""Test wrappers: a client that serves them in the test's process, and a component for tests."""

from hayhooks.testing.answer import ChatAnswer
from hayhooks.testing.client import Client, client

__all__ = ["ChatAnswer", "Client", "client"]
