"""Pipelines given in code: wrappers that the application names itself, beside those of the directory."""

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from hayhooks.errors import StartError
from hayhooks.kernel.discovery import entries_named, name_problem
from hayhooks.kernel.state import Revision, RevisionKind
from hayhooks.wrapper import BasePipelineWrapper

WrapperFactory = Callable[[], BasePipelineWrapper]  # a wrapper's class, or what makes one


def static_revisions(pipelines: Mapping[str, WrapperFactory], reserved: Collection[str]) -> tuple[Revision, ...]:
    """The revisions of *pipelines*, by name.

    Raises:
        StartError: a name cannot be a deployment's, or what it is given is no wrapper.
    """
    return tuple(_revision(name, make, reserved) for name, make in pipelines.items())


def check_directory(root: Path, given: Collection[Revision]) -> None:
    """See that nothing in *root* has the name of one that is *given*; that may take a while on a slow file system.

    Raises:
        StartError: something has.
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
    """Where the code is that *make* runs; its name where that is in no file."""
    try:
        return Path(inspect.getfile(inspect.unwrap(getattr(make, "func", make))))
    except (TypeError, OSError):  # it was typed in, or is not Python
        return Path(".".join(_identity(make)))


def _identity(make: WrapperFactory) -> Iterator[str]:
    function = getattr(make, "func", make)  # of a partial
    yield from (str(getattr(function, name, type(function).__name__)) for name in ("__module__", "__qualname__"))
