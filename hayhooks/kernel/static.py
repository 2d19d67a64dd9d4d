"""Static pipelines: wrappers that the application gives in code."""

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from hayhooks.errors import StartError
from hayhooks.kernel.discovery import entries_named, name_problem
from hayhooks.kernel.state import Revision, RevisionKind
from hayhooks.wrapper import BasePipelineWrapper

WrapperFactory = Callable[[], BasePipelineWrapper]  # a wrapper class, or a function that makes a wrapper


def static_revisions(pipelines: Mapping[str, WrapperFactory], reserved: Collection[str]) -> tuple[Revision, ...]:
    """Make a revision of each of *pipelines*; refuse wrong names and values."""
    values: Mapping[Any, Any] = pipelines  # the user's, who may not check types
    revisions = []
    for name, make in values.items():
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
        function = getattr(make, "func", make)  # of a partial
        identity = [str(getattr(function, part, type(function).__name__)) for part in ("__module__", "__qualname__")]
        try:
            path = Path(inspect.getfile(inspect.unwrap(function)))
        except (TypeError, OSError):  # typed into a shell, or not Python
            path = Path(".".join(identity))
        digest = hashlib.blake2b("\0".join(identity).encode(errors="surrogateescape"), digest_size=16)
        if path.is_file():
            digest.update(path.read_bytes())
        revisions.append(Revision(name, path, digest.hexdigest(), kind=RevisionKind.CODE, make=make))
    return tuple(revisions)


def check_directory(root: Path, given: Collection[Revision]) -> None:
    """Refuse a deployment in *root* with the name of a *given* one."""
    for name, path in entries_named(root, [revision.name for revision in given]).items():
        raise StartError(f"{path} and a pipeline given in code both claim the name {name!r}: rename one of them")
