"""Paths: what makes a deployment of one, and the real one of what may be replaced at this very moment."""

import os
from pathlib import Path

WRAPPER_FILE = "pipeline_wrapper.py"  # what makes a folder a deployment
YAML_SUFFIXES = (".yml", ".yaml")  # of files that are


def real_path(path: str | Path) -> str:
    """*path* without links; as it is where a link on the way is removed while it is followed.

    ``os.path.realpath`` raises then, between its look at a link and its reading of it.
    """
    try:
        return os.path.realpath(path)
    except OSError:
        return str(path)
