"""Wrappers that tests deploy, each a file that is checked as all code is.

A name in capitals that a file does not define is a constant: ``LiveServer.write`` puts it above the wrapper.
"""

from pathlib import Path


def source(name: str) -> str:
    """The text of the wrapper *name*."""
    return (Path(__file__).parent / f"{name}.py").read_text()
