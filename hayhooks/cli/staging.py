"""The pipelines directory, changed one name at a time, so that at every moment it holds the old or the new.

Whatever is new is made in a hidden *workshop* inside the directory, so on the same file system, and comes into its
place by one rename, or by an exchange with what it replaces. That goes to the workshop, from where it can be put back,
and goes with it when all is well. A workshop is held by a lock of its process: one that nobody holds was left behind by
a process that died, and the next command clears it away.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hayhooks.cli import swap
from hayhooks.cli.output import CommandError
from hayhooks.kernel.discovery import YAML_SUFFIXES, identity_of

_WORKSHOP = ".hayhooks-"


class PipelinesDirectory:
    """The pipelines directory *root*, which is created where only it is missing.

    Raises:
        CannotError: it is no directory, and cannot become one.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if not os.path.lexists(self.root) and self.root.parent.is_dir():
            with suppress(FileExistsError), reporting_os_errors(f"the pipelines directory {self.root} cannot be made"):
                self.root.mkdir()
        if not self.root.is_dir():
            raise CommandError(
                f"the pipelines directory {self.root} does not exist: make it, or set HAYHOOKS_PIPELINES_DIR"
            )

    def claims(self, name: str) -> list[Path]:
        """What lies there under *name*: a folder, a YAML file, or links to such."""
        files = [self.root / f"{name}{suffix}" for suffix in YAML_SUFFIXES]
        return [path for path in (self.root / name, *files) if os.path.lexists(path)]

    @contextmanager
    def workshop(self) -> Iterator["StagingDir"]:
        """A workshop, until the block ends.

        Raises:
            CannotError: nothing can be written to the directory.
        """
        with ExitStack() as stack:
            with reporting_os_errors(f"the pipelines directory {self.root} cannot be written to"), _held(self.root):
                _clear_away(self.root)
                path = Path(tempfile.mkdtemp(prefix=_WORKSHOP, dir=self.root))
                stack.callback(remove, path)
                stack.enter_context(_held(path))  # before another command may look for what is left behind
                workshop = StagingDir(self.root, path)
            yield workshop

    def clear_away(self) -> None:
        """Remove what commands that died have left, and put back what they had just taken aside."""
        with reporting_os_errors(f"the pipelines directory {self.root} cannot be written to"), _held(self.root):
            _clear_away(self.root)

    def move_to_trash(self, path: Path) -> Path:
        """Move *path*, which lies here, to a folder beside the directory, in one step; returns where it is now.

        Raises:
            CannotError: that folder cannot be made, or lies on another file system.
        """
        root = Path(os.path.realpath(self.root))
        trash = root.parent / f".{root.name}-trash"
        name = f"{path.name}-{datetime.now().astimezone():%Y%m%dT%H%M%S}"
        otherwise = f"move {path} away yourself, or delete it with --purge"
        with reporting_os_errors(f"it cannot be moved to the trash folder {trash} ({otherwise})"), _held(self.root):
            trash.mkdir(exist_ok=True)
            number = 1
            while True:
                place = trash / (name if number == 1 else f"{name}-{number}")
                with suppress(FileExistsError):
                    swap.place(path, place)
                    return place
                number += 1


class StagingDir:
    """Where one command makes what is new, and keeps what is old.

    ``new`` and ``old`` hold at most one entry each, under the name that it has in the directory.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.new = path / "new"
        self.old = path / "old"
        self.new.mkdir()
        self.old.mkdir()

    def deploy(self, filename: str, *, overwrite: bool) -> "PendingChange":
        """Put ``new/filename`` into the directory; what was there is kept in ``old``.

        Raises:
            CannotError: there is such a thing already, and it is not to be overwritten; or a rename failed.
        """
        new, target = self.new / filename, self.root / filename
        with reporting_os_errors(f"{target} cannot be written"), _held(self.root):
            swap.flush(self.new)
            if not os.path.lexists(target):
                swap.place(new, target)
            elif not overwrite:
                raise CommandError(f"{target} exists already: use --overwrite to replace it")
            else:
                _replace(new, target, self.old / filename)
            swap.flush(self.root)
        return PendingChange(self, target, identity_of(target, follow_symlinks=False))

    def take_out(self, filename: str) -> None:
        """Move an entry of the directory to ``old``."""
        with reporting_os_errors(f"{self.root / filename} cannot be taken out"), _held(self.root):
            (self.root / filename).rename(self.old / filename)
            swap.flush(self.root)


class PendingChange:
    """What was put into the directory in place of something, or of nothing."""

    def __init__(self, workshop: StagingDir, target: Path, identity: tuple[int, int]) -> None:
        self.target = target
        self._workshop = workshop
        self._identity = identity
        self._old = workshop.old / target.name
        self.replaced = os.path.lexists(self._old)

    @property
    def stands(self) -> bool:
        """Whether it is still there, and nobody has put something else into its place."""
        return identity_of(self.target, follow_symlinks=False) == self._identity

    def undo(self) -> bool:
        """Put back what was there before; False if somebody else has changed it since: then it is theirs.

        Raises:
            CannotError: a rename failed.
        """
        undone = self._workshop.new / self.target.name
        with reporting_os_errors(f"what was at {self.target} before cannot be put back"), _held(self._workshop.root):
            if not self.stands:
                return False
            if self.replaced:
                _replace(self._old, self.target, undone)
            else:
                self.target.rename(undone)
            swap.flush(self._workshop.root)
        return True


def _replace(new: Path, target: Path, aside: Path) -> None:
    """Put *new* in place of *target*, and that *aside*, which lies where *new* does."""
    if swap.exchange(new, target):
        new.rename(aside)
        return
    # Where names cannot be exchanged there is a moment without either. The server bridges it: a name must be away for
    # 0.4 s to be undeployed. And what a process that died in between has left is put back by `_clear_away`.
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _clear_away(root: Path) -> None:
    """Remove the workshops of processes that have died, once what they had just taken aside is back in its place."""
    for path in sorted(root.glob(f"{_WORKSHOP}*")):
        with _held(path, wait=False) as held:
            if held and path.is_dir() and not path.is_symlink():
                _recover(root, path)
                remove(path)


def _recover(root: Path, workshop: Path) -> None:
    """Put back what a process has taken aside that died before it could put something else there."""
    for old in workshop.glob("old/*"):
        is_between = os.path.lexists(workshop / "new" / old.name)
        if is_between and not os.path.lexists(root / old.name):
            with suppress(FileExistsError):
                swap.place(old, root / old.name)


@contextmanager
def _held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the directory *path*, which ends with this process; whether it is held.

    On file systems without locks (some of NFS) nobody holds any: there commands that run at the same time may put back
    what another has just replaced, and workshops are not cleared away.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # cleared away by another command
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove *path*, folders that may not be written to included; of a link the link alone."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path, onerror=lambda error: _open_up(str(error.filename))):
        _open_up(directory)
    shutil.rmtree(path, ignore_errors=True)  # what is left is cleared away by the next command


def _open_up(directory: str) -> None:
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        with suppress(OSError):
            os.chmod(directory, 0o700)


@contextmanager
def reporting_os_errors(what: str) -> Iterator[None]:
    """Tell errors of the file system as *what* could not be done, and why."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{what}: {error.strerror or error}") from error
