"""Git checkout: a pipelines directory that follows a branch or tag of a repository.

Each commit is cloned into a folder of its own; a link is then turned to it, so that the change is one step.
"""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from hayhooks.errors import StartError
from hayhooks.observability.log import log

_FORM = re.compile(r"git\+(?P<url>[^#]+?)(?:@(?P<ref>[^@/#:]+))?(?:#(?P<folder>.*))?")
_FOLLOW_S = 10.0  # between two looks at the repository
_COMMAND_S = 300.0


class GitCheckout:
    """The checkout of one process, in a temporary directory."""

    def __init__(self, url: str, ref: str, folder: str) -> None:
        self._url = url
        self._ref = ref
        self._temporary = tempfile.TemporaryDirectory(prefix="hayhooks-git-")  # removed with the process
        self._root = Path(self._temporary.name)
        self._commits = [""]  # of the link and of the one before, whose code may still run
        self.folder = self._root / "current" / folder
        self._update()

    @classmethod
    def of(cls, source: str) -> "GitCheckout | None":
        """Make the checkout that *source* means, ``git+URL[@REF][#FOLDER]``; None if it is a path.

        Raises StartError if git cannot clone it.
        """
        found = _FORM.fullmatch(source)
        return cls(found["url"], found["ref"] or "HEAD", found["folder"] or "") if found else None

    async def follow(self) -> None:
        """Bring the checkout up to date every ten seconds."""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await asyncio.to_thread(self._update)
            except (StartError, OSError) as error:  # what serves, serves on
                log.warning("{}", error)

    def _update(self) -> None:
        line = _git("ls-remote", "--", self._url, self._ref)
        commit = line.split("\t")[0]
        if not commit:
            raise StartError(f"{self._url} has no branch or tag {self._ref!r}")
        if commit == self._commits[-1]:
            return
        new = self._root / commit
        shutil.rmtree(new, ignore_errors=True)  # of an attempt that failed
        branch = [] if self._ref == "HEAD" else ["--branch", self._ref]
        _git("clone", "--quiet", "--depth", "1", *branch, "--", self._url, str(new))
        link = self._root / "next"
        link.symlink_to(new.name)
        os.replace(link, self._root / "current")
        self._commits.append(commit)
        for old in self._commits[:-2]:
            shutil.rmtree(self._root / old, ignore_errors=True) if old else None
        del self._commits[:-2]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the operator has given the address
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=_COMMAND_S,
        )
    except FileNotFoundError:
        raise StartError("git is not installed on this node, and the pipelines directory is a repository") from None
    except subprocess.TimeoutExpired:
        raise StartError(f"git {arguments[0]} took longer than {_COMMAND_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise StartError(f"git {arguments[0]} failed: {error.stderr.strip()}") from None
    return done.stdout
