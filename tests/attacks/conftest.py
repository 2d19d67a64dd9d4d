"""Fixtures for the attacks."""

from tests.cli.conftest import port

__all__ = ["port"]
