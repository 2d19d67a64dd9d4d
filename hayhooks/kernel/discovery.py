"""Discovery: find the deployments in the pipelines directory, and their names.

The helpers on paths here work while somebody else replaces files.
"""

import difflib
import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hayhooks.toolkit.yaml_source import is_meant_as_pipeline

WRAPPER_FILE = "pipeline_wrapper.py"  # makes a folder a deployment
YAML_SUFFIXES = (".yml", ".yaml")  # make a file a deployment

FIRST_STEP = (  # for whoever has an empty directory
    "`hayhooks pipeline new NAME` writes a first pipeline there; "
    f"each folder with a {WRAPPER_FILE}, and each NAME.yml, is served as soon as it is saved."
)

_CLASS = b"class PipelineWrapper"
_MAX_SCRIPTS = 20  # that are read to find it
_MAX_HEAD = 2**20  # bytes of each

_FILE_SUFFIXES = (*YAML_SUFFIXES, ".py")

# Hidden files, and temporary files of editors, tools and Python.
_IGNORED = re.compile(r"\..*|.*(\.sw[pxo]|~|\.tmp|\.py[co]|___jb_\w+___)|#.*#|4913|__pycache__|node_modules", re.DOTALL)

_URL_SAFE_PUNCTUATION = "-._~!$&'()*+,;=:@"  # RFC 3986


def is_ignored(name: str) -> bool:
    """Whether *name* is a hidden file, or a temporary one of an editor or of Python."""
    return _IGNORED.fullmatch(name) is not None


def candidates(root: Path) -> dict[str, tuple[str, ...]]:
    """List the names in *root* that may be deployments, with the entries of each."""
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
    """Return the name that a file of the pipelines directory claims."""
    return filename.rpartition(".")[0] if filename.endswith(_FILE_SUFFIXES) else filename


def name_problem(name: str, reserved: Collection[str]) -> str:
    """Say why *name* cannot be a deployment's name, and what to do; "" if it can."""
    if name in reserved:
        return f"the name {name!r} belongs to a route of the server (/{name}): rename it"
    # Letters and digits of every script are fine.
    unfit = {character for character in name if not (character.isalnum() or character in _URL_SAFE_PUNCTUATION)}
    if unfit:
        listed = " ".join(repr(character) for character in sorted(unfit))
        return (
            f"the name {name!r} cannot be a part of a URL, because of {listed}: use letters, digits, '-', '_' and '.'"
        )
    return ""


def single_name(path: Path) -> str | None:
    """Return the name of the deployment at *path*; None for a directory of them, and for other files."""
    if path.is_dir():
        return path.name if (path / WRAPPER_FILE).is_file() else None
    return path.stem if path.suffix in YAML_SUFFIXES else None


def entry_problem(path: Path, *, is_expected: bool = False) -> str | None:
    """Return the problem of the entry *path*: "" for a deployment, None for other files.

    A YAML file is a deployment if it *is_expected* to be one, or has the components of a pipeline.
    """
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        wrapper_mode = _mode(f"{path}/{WRAPPER_FILE}")
        if stat.S_ISDIR(wrapper_mode):
            return f"{path / WRAPPER_FILE} is a folder: it must be the Python file with class PipelineWrapper"
        return "" if stat.S_ISREG(wrapper_mode) else None
    if not stat.S_ISREG(mode):
        return None
    if path.suffix in YAML_SUFFIXES:
        try:
            status = path.stat()
            stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            return "" if is_expected or _is_pipeline(path, stamp) else None
        except OSError:  # the scan reports that
            return ""
    if path.suffix == ".py":
        try:
            is_meant = _CLASS in path.read_bytes()
        except OSError:
            is_meant = False
    else:
        is_meant = path.suffix == "" and path.name == path.name.lower()  # but not LICENSE, Makefile, Dockerfile
    if is_meant:
        return f"{path.name} is a file where a folder should be: move it to {path.stem}/{WRAPPER_FILE}"
    return None


@lru_cache(maxsize=20_000)
def _is_pipeline(path: Path, stamp: tuple[int, ...]) -> bool:
    return is_meant_as_pipeline(path.read_bytes())


def missing_wrapper_problem(folder: Path) -> str | None:
    """Say what is missing in *folder* if it has Python files but no wrapper; None if it has none."""
    if not folder.is_dir():
        return None
    files = [file for file in sorted(os.listdir(folder)) if not is_ignored(file)]
    below = [file for file in files if (folder / file / WRAPPER_FILE).is_file()]
    scripts = [file for file in files if file.lower().endswith(".py") and file != "__init__.py"]
    if not scripts and not below:
        return None
    if misnamed := misnamed_wrapper(folder):
        return f"{folder} is not deployed, it has no {WRAPPER_FILE}: rename {misnamed} to {WRAPPER_FILE}"
    meant = f" (did you mean {below[0]}/{WRAPPER_FILE}?)" if below else ""
    return (
        f"{folder} holds Python files, but no {WRAPPER_FILE}{meant}: it is not deployed. "
        "If it is no pipeline, begin its name with _ or move it out of the directory"
    )


def misnamed_wrapper(folder: Path) -> str:
    """Return the file in *folder* that is probably meant as its wrapper; "" if none is."""
    files = [file for file in sorted(os.listdir(folder)) if not is_ignored(file)]
    if close := difflib.get_close_matches(WRAPPER_FILE, files, n=1, cutoff=0.7):
        return close[0]
    scripts = [file for file in files if file.lower().endswith(".py")][:_MAX_SCRIPTS]
    if named := next((file for file in scripts if "wrapper" in file.lower()), ""):
        return named
    for file in scripts:
        with suppress(OSError):  # a link to nothing, or not for us to read
            if (folder / file).is_file():  # reading a pipe would wait for its writer
                with open(folder / file, "rb") as script:
                    if _CLASS in script.read(_MAX_HEAD):
                        return file
    return ""


def entries_named(root: Path, names: Collection[str]) -> dict[str, Path]:
    """Return the entries of *root* that are or should be deployments of *names*."""
    try:
        listing = candidates(root)
    except OSError:  # missing or unreadable: the scan reports that
        return {}
    entries = [(name, root / entry) for name in names for entry in listing.get(name, ())]
    return {name: path for name, path in entries if entry_problem(path) is not None}


def _mode(path: str | Path) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether *entry* is a directory, links followed."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Identity(NamedTuple):
    """What tells a file from every other one, also from a later one that gets its inode."""

    device: int = 0
    inode: int = 0
    ctime_ns: int = 0


def entry_identity(path: Path) -> Identity:
    """Return the identity of the wrapper in the folder *path*, else of *path* itself; zeros if there is nothing."""
    for file in (path / WRAPPER_FILE, path):
        try:
            status = os.stat(file)
        except OSError:
            continue
        return Identity(status.st_dev, status.st_ino, status.st_ctime_ns)
    return Identity()


def identity_of(path: str | Path) -> tuple[int, int]:
    """Return device and inode of *path*; zeros if there is nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def real_path(path: str | Path) -> str:
    """Return *path* without links; unchanged if a link is removed meanwhile."""
    try:
        return os.path.realpath(path)
    except OSError:  # raised between its look at a link and its reading of it
        return str(path)
