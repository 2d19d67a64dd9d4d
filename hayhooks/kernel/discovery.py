"""Claims: what in the pipelines directory is a deployment, or was meant as one, and under which name."""

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from hayhooks.kernel.paths import WRAPPER_FILE, YAML_SUFFIXES

_FILE_SUFFIXES = (*YAML_SUFFIXES, ".py")

# Hidden files, and what editors, tools and Python leave behind.
_LEAVING = re.compile(r"\..*|.*(\.sw[pxo]|~|\.tmp|\.py[co]|___jb_\w+___)|#.*#|4913|__pycache__|node_modules", re.DOTALL)


def name_problem(name: str, reserved: Collection[str]) -> str:
    """Why *name* cannot be a deployment's name, and what to do; "" if it can."""
    if name in reserved:
        return f"the name {name!r} belongs to a route of the server (/{name}): rename it"
    unfit = sorted({character for character in name if not _fits_a_path_segment(character)})
    if unfit:
        listed = " ".join(repr(character) for character in unfit)
        return (
            f"the name {name!r} cannot be a part of a URL, because of {listed}: use letters, digits, '-', '_' and '.'"
        )
    return ""


def _fits_a_path_segment(character: str) -> bool:
    return character.isalnum() or character in "-._~!$&'()*+,;=:@"  # RFC 3986, and letters of every script


def is_ignored(name: str) -> bool:
    """Whether *name* is a hidden file, or one that editors, tools and Python leave behind."""
    return _LEAVING.fullmatch(name) is not None


def candidates(root: Path) -> dict[str, tuple[str, ...]]:
    """The names in *root* that may be deployments, each with the entries that claim it."""
    claims: dict[str, tuple[str, ...]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            filename = entry.name
            if filename.startswith("_") or is_ignored(filename):
                continue
            name = filename
            if filename.endswith(_FILE_SUFFIXES) and not is_directory(entry):
                name = deployment_name(filename)
            claims[name] = (*claims.get(name, ()), filename)
    return claims


def deployment_name(filename: str) -> str:
    """The name that a file of the pipelines directory claims."""
    return filename.rpartition(".")[0] if filename.endswith(_FILE_SUFFIXES) else filename


def entries_named(root: Path, names: Collection[str]) -> dict[str, Path]:
    """What in *root* is, or was meant to be, a deployment of one of *names*."""
    try:
        listing = candidates(root)
    except OSError:  # there is none, or it will be told when it is looked at
        return {}
    entries = [(name, root / entry) for name in names for entry in listing.get(name, ())]
    return {name: path for name, path in entries if entry_problem(path) is not None}


def entry_problem(path: Path) -> str | None:
    """None if *path* is no deployment and was not meant as one, "" if it is one, else what is wrong with it."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        wrapper_mode = _mode(f"{path}/{WRAPPER_FILE}")
        if stat.S_ISDIR(wrapper_mode):
            return f"{path / WRAPPER_FILE} is a folder: it must be the Python file with class PipelineWrapper"
        return "" if stat.S_ISREG(wrapper_mode) else None
    if not stat.S_ISREG(mode):
        return None
    if path.suffix in YAML_SUFFIXES:
        return ""
    if _looks_like_a_wrapper(path):
        return f"{path.name} is a file where a folder should be: move it to {path.stem}/{WRAPPER_FILE}"
    return None


def _mode(path: str | Path) -> int:
    """What kind of file *path* is, links followed; 0 if it is none."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _looks_like_a_wrapper(path: Path) -> bool:
    """Whether the file *path* was probably meant to be a deployment: a wrapper, or a plain file named like a folder."""
    if path.suffix == ".py":
        try:
            return b"class PipelineWrapper" in path.read_bytes()
        except OSError:
            return False
    return path.suffix == "" and path.name == path.name.lower()  # but not LICENSE, Makefile, Dockerfile


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether *entry* is a directory, links followed."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
