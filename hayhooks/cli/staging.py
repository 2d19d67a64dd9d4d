"""Atomic changes of the pipelines directory, one name at a time.

A new version is made in a hidden staging directory inside the pipelines directory, on the same file system. One rename,
or an exchange with the old version, puts it in place. The old version stays in the staging directory until the command
ends, so that it can be restored. Each staging directory is locked by its process; the next command removes one that
nobody locks.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from hayhooks.cli import atomic
from hayhooks.cli.output import CommandError
from hayhooks.kernel.discovery import YAML_SUFFIXES, Identity, entry_identity

_STAGING_PREFIX = ".hayhooks-"
_MAX_TRASHED_BYTES = 230  # of a name, so that the time and a number fit behind it


class PipelinesDirectory:
    """The pipelines directory, created if only the last folder of its path is missing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if not os.path.lexists(self.root) and self.root.parent.is_dir():
            with suppress(FileExistsError), reporting_os_errors(f"Cannot create the pipelines directory {self.root}"):
                self.root.mkdir()
        if not self.root.is_dir():
            raise CommandError(
                f"The pipelines directory {self.root} does not exist: create it, or set HAYHOOKS_PIPELINES_DIR"
            )

    def entries(self, name: str) -> list[Path]:
        """Return all folders, YAML files and links that *name* may mean."""
        files = [self.root / f"{name}{suffix}" for suffix in YAML_SUFFIXES]
        return [path for path in (self.root / name, *files) if os.path.lexists(path)]

    @contextmanager
    def staging(self) -> Iterator["StagingDir"]:
        """Create a staging directory for the duration of the block."""
        with ExitStack() as stack:
            with reporting_os_errors(f"Cannot write to the pipelines directory {self.root}"), _held(self.root):
                _clear_abandoned(self.root)
                path = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=self.root))
                stack.callback(remove, path)
                stack.enter_context(_held(path))  # before another command may look for abandoned ones
                staging = StagingDir(self.root, path)
            yield staging

    def clear_abandoned(self) -> None:
        """Remove the staging directories of dead commands, after restoring old versions."""
        with reporting_os_errors(f"Cannot write to the pipelines directory {self.root}"), _held(self.root):
            _clear_abandoned(self.root)

    def move_to_trash(self, path: Path) -> Path:
        """Move *path* to the trash folder beside the directory; return its new path."""
        root = Path(os.path.realpath(self.root))
        trash = root.parent / f".{root.name}-trash"
        kept = os.fsencode(path.name)[:_MAX_TRASHED_BYTES].decode(errors="ignore")
        name = f"{kept}-{datetime.now().astimezone():%Y%m%dT%H%M%S}"
        otherwise = f"move {path} away yourself, or delete it with --purge"
        with reporting_os_errors(f"Cannot move it to the trash folder {trash} ({otherwise})"), _held(self.root):
            trash.mkdir(exist_ok=True)
            number = 1
            while True:
                place = trash / (name if number == 1 else f"{name}-{number}")
                with suppress(FileExistsError):
                    atomic.place(path, place)
                    atomic.sync(self.root)
                    return place
                number += 1


class StagingDir:
    """The staging directory of one command; ``new`` and ``old`` hold up to one entry."""

    def __init__(self, root: Path, path: Path) -> None:
        self.root = root
        self.new = path / "new"
        self.old = path / "old"
        self.new.mkdir()
        self.old.mkdir()

    def deploy(self, filename: str, *, overwrite: bool) -> "PendingChange":
        """Move ``new/filename`` into the directory, and its previous version to ``old``."""
        new, target = self.new / filename, self.root / filename
        with reporting_os_errors(f"Cannot write {target}"), _held(self.root):
            atomic.sync_tree(self.new)
            if not os.path.lexists(target):
                atomic.place(new, target)
            elif not overwrite:
                raise CommandError(f"{target} already exists: use --overwrite to replace it")
            else:
                _replace(new, target, self.old / filename)
            atomic.sync(self.root)
        return PendingChange(self, target, entry_identity(target))

    def take_out(self, filename: str) -> None:
        """Move an entry of the directory to ``old``."""
        with reporting_os_errors(f"Cannot remove {self.root / filename}"), _held(self.root):
            (self.root / filename).rename(self.old / filename)
            atomic.sync(self.root)


class PendingChange:
    """A change of the directory that can still be undone."""

    def __init__(self, staging: StagingDir, target: Path, identity: Identity) -> None:
        self.target = target
        self._staging = staging
        self._identity = identity
        self._old = staging.old / target.name
        self.replaced = os.path.lexists(self._old)

    @property
    def is_current(self) -> bool:
        """Whether the files are still those of this change."""
        return entry_identity(self.target) == self._identity

    def undo(self) -> bool:
        """Restore the previous version; return False if the change is not current."""
        undone = self._staging.new / self.target.name
        with reporting_os_errors(f"Cannot restore the previous {self.target}"), _held(self._staging.root):
            if not self.is_current:
                return False
            if self.replaced:
                _replace(self._old, self.target, undone)
            else:
                self.target.rename(undone)
            atomic.sync(self._staging.root)
        return True


def _replace(new: Path, target: Path, aside: Path) -> None:
    """Move *target* to *aside*, and *new* to *target*."""
    if atomic.exchange(new, target):
        new.rename(aside)
        return
    # For a moment there is neither. The server waits for the removal grace before it undeploys, and after a crash here
    # `_clear_abandoned` restores the old version.
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _clear_abandoned(root: Path) -> None:
    for path in sorted(root.glob(f"{_STAGING_PREFIX}*")):
        with _held(path, wait=False) as held:
            if held and path.is_dir() and not path.is_symlink():
                # The process may have died after it moved the old version aside, before the new one was in place.
                for old in path.glob("old/*"):
                    was_replacing = os.path.lexists(path / "new" / old.name)
                    if was_replacing and not os.path.lexists(root / old.name):
                        with suppress(FileExistsError):
                            atomic.place(old, root / old.name)
                remove(path)


@contextmanager
def _held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock the directory *path* until the process ends; yield whether it is locked.

    On file systems without locks (some NFS) it is never held: concurrent commands may then undo each other's changes,
    and staging directories of dead processes are not removed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # removed by another command
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
    """Remove *path*, also folders without write permission; a link's target stays."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for directory, _, _ in os.walk(path, onerror=lambda error: _make_writable(str(error.filename))):
        _make_writable(directory)
    shutil.rmtree(path, ignore_errors=True)  # the next command removes the rest


def _make_writable(directory: str) -> None:
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        with suppress(OSError):
            os.chmod(directory, 0o700)


@contextmanager
def reporting_os_errors(what: str) -> Iterator[None]:
    """Turn an ``OSError`` into a ``CommandError`` that begins with *what*."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{what}: {error.strerror or error}") from error
