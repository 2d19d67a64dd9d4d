"""Git checkout: a pipelines directory that follows a branch or tag of a repository.

Each commit is cloned into a folder of its own; a link is then turned to it, so that the change is one step.
"""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

from hayhooks.errors import StartError
from hayhooks.observability.log import log

# A branch may have slashes, so an "@" before the path of the URL, as in ssh://git@host/path and git@host:path, is told
# apart from the one before the branch.
_FORM = re.compile(
    r"git\+(?P<url>(?:[\w.+-]+://[^/#]*|[^/:#]+:)?[^#]*?)(?:@(?P<ref>[^@:#]+))?(?:#(?P<folder>.*))?", re.DOTALL
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
_FOLLOW_S = 10.0  # between two looks at the repository
_COMMAND_S = 300.0


class GitCheckout:
    """The checkout of one process, in a temporary directory."""

    def __init__(self, url: str, ref: str, folder: str) -> None:
        self._url = url
        self._ref = ref
        self._root = Path(tempfile.mkdtemp(prefix="hayhooks-git-"))
        weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)  # with the process
        self._commit = ""  # that the link shows
        self._clones: list[Path] = []  # it, and the one before, whose code may still run
        self._folder = folder
        self.folder = self._root / "current" / folder
        self.update()

    @classmethod
    def of(cls, source: str) -> "GitCheckout | None":
        """Make the checkout that *source* means, ``git+URL[@REF][#FOLDER]``; None if it is a path.

        Raises StartError if git cannot clone it.
        """
        return cls(*parts_of(source)) if source.startswith("git+") else None

    async def follow(self) -> None:
        """Bring the checkout up to date every ten seconds."""
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                await asyncio.to_thread(self.update)
            except (StartError, OSError) as error:  # what serves, serves on
                log.warning("{}", error)

    def update(self) -> None:
        """Check out the commit that the branch or tag has now, if it is another; raise StartError if that fails."""
        names = [self._ref] if self._ref == "HEAD" else [f"refs/heads/{self._ref}", f"refs/tags/{self._ref}"]
        lines = [line.split("\t") for line in _git("ls-remote", "--", self._url, *names).splitlines()]
        commit = next((commit for commit, name in lines if name in names), None)  # git compares the ends of names
        if commit is None:
            raise StartError(_without_credentials(f"{self._url} has no branch or tag {self._ref!r}"))
        if commit == self._commit:
            return
        new = Path(tempfile.mkdtemp(prefix=f"{commit}-", dir=self._root))
        try:
            branch = [] if self._ref == "HEAD" else ["--branch", self._ref]
            _git("clone", "--quiet", "--depth", "1", *branch, "--", self._url, str(new))
            if not (new / self._folder).is_dir():
                raise StartError(_without_credentials(f"{self._url} has no folder {self._folder!r} at {self._ref!r}"))
            link = self._root / "next"
            link.symlink_to(new.name)
            os.replace(link, self._root / "current")
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        self._commit = commit
        self._clones.append(new)
        for old in self._clones[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        del self._clones[:-2]


def parts_of(source: str) -> tuple[str, str, str]:
    """Return URL, branch or tag, and folder of ``git+URL[@REF][#FOLDER]``."""
    found = _FORM.fullmatch(source)
    if found is None or not found["url"]:
        raise StartError(f"a repository is written as git+URL[@REF][#FOLDER], not {_without_credentials(source)!r}")
    return found["url"], found["ref"] or "HEAD", found["folder"] or ""


def _without_credentials(text: str) -> str:
    return _CREDENTIALS.sub("***@", text)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the operator has given the address
            ["git", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=_COMMAND_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},  # nobody is there to answer
        )
    except FileNotFoundError:
        raise StartError("git is not installed on this node, and the pipelines directory is a repository") from None
    except subprocess.TimeoutExpired:
        raise StartError(f"git {arguments[0]} took longer than {_COMMAND_S:g} s") from None
    except subprocess.CalledProcessError as error:
        raise StartError(_without_credentials(f"git {arguments[0]} failed: {error.stderr.strip()}")) from None
    return done.stdout
