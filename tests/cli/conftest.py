"""Fixtures for the tests of commands."""

import pytest

from tests.live_server import LiveServer


@pytest.fixture
def port(server: LiveServer) -> str:
    """The server's port, as an option or a setting takes it."""
    return str(server.port)
