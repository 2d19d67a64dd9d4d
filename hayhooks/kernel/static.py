"""Static pipelines: wrappers that the application gives in code, beside those of the directory."""

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hayhooks.errors import StartError
from hayhooks.kernel.discovery import entries_named, name_problem
from hayhooks.kernel.state import Revision, RevisionKind
from hayhooks.wrapper import BasePipelineWrapper

WrapperFactory = Callable[[], BasePipelineWrapper]  # a wrapper class, or a function that makes a wrapper


def static_revisions(pipelines: Mapping[str, WrapperFactory], reserved: Collection[str]) -> tuple[Revision, ...]:
    """Make a revision of each of *pipelines*.

    Raises:
        StartError: a name is not valid, or its value is not a wrapper factory.
    """
    return tuple(_revision(name, make, reserved) for name, make in pipelines.items())


def check_directory(root: Path, given: Collection[Revision]) -> None:
    """Check that no deployment in *root* has the name of a *given* one; slow on a slow file system.

    Raises:
        StartError: one has.
    """
    for name, path in entries_named(root, [revision.name for revision in given]).items():
        raise StartError(f"{path} and a pipeline given in code both claim the name {name!r}: rename one of them")


def _revision(name: Any, make: Any, reserved: Collection[str]) -> Revision:
    if not isinstance(name, str) or not name:
        raise StartError(f"a pipeline given in code needs a name, not {name!r}")
    if problem := name_problem(name, reserved):
        raise StartError(f"a pipeline given in code: {problem}")
    if isinstance(make, type) and not issubclass(make, BasePipelineWrapper):
        raise StartError(
            f"the pipeline {name!r} given in code: {make.__name__} does not derive from BasePipelineWrapper"
        )
    if isinstance(make, BasePipelineWrapper) or not callable(make):
        raise StartError(
            f"the pipeline {name!r} given in code is a {type(make).__name__} object: "
            "give a class that derives from BasePipelineWrapper, or a function that makes a wrapper"
        )
    path = _file_of(make)
    digest = hashlib.blake2b("\0".join(_identity(make)).encode(errors="surrogateescape"), digest_size=16)
    if path.is_file():
        digest.update(path.read_bytes())
    return Revision(name, path, digest.hexdigest(), kind=RevisionKind.CODE, make=make)


def _file_of(make: WrapperFactory) -> Path:
    """Return the source file of *make*, or its dotted name without one."""
    try:
        return Path(inspect.getfile(inspect.unwrap(getattr(make, "func", make))))
    except (TypeError, OSError):  # typed into a shell, or not Python
        return Path(".".join(_identity(make)))


def _identity(make: WrapperFactory) -> Iterator[str]:
    function = getattr(make, "func", make)  # of a partial
    yield from (str(getattr(function, name, type(function).__name__)) for name in ("__module__", "__qualname__"))
