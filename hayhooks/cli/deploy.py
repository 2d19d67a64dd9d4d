"""``hayhooks pipeline deploy-files``, ``deploy`` and ``undeploy``: change the directory, and say what comes of it."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from hayhooks.cli import check, copytree, follow
from hayhooks.cli.client import Server, Unreachable, serving
from hayhooks.cli.output import CommandError, note, progress, say
from hayhooks.cli.staging import PendingChange, PipelinesDirectory, StagingDir, reporting_os_errors
from hayhooks.kernel.discovery import WRAPPER_FILE, YAML_SUFFIXES, is_ignored, name_problem
from hayhooks.settings import Settings

# The key with its value, to which the lines below belong that are indented, or empty and followed by such.
_DESCRIPTION = re.compile(
    r"""^(['"]?)description\1[ \t]*:.*\n?(?:[ \t]+\S.*\n?|[ \t]*\n(?=(?:[ \t]*\n)*[ \t]+\S))*""", re.M
)
_START = re.compile(r"\ufeff|(?:(?:%.*|#.*|[ \t]*)\n)*?---[ \t]*(?:#.*)?\n")  # what must stay in front
_PUTTING_BACK_S = 10.0  # that the server gets to go back to what served before


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """The options of a deployment."""

    overwrite: bool
    rollback: bool
    checked: bool  # load it in a process of its own before anything is changed
    timeout_s: float  # for that, and again for the server


def deploy_files(settings: Settings, source: Path, *, name: str, as_link: bool, how: DeployOptions) -> int:
    """Deploy a copy of the folder *source*, or a link to it, as *name*; 1 if the server cannot serve it."""
    source = source.absolute()
    if not (source / WRAPPER_FILE).is_file():
        raise CommandError(f"{source} has no {WRAPPER_FILE}: that is what makes a folder a deployment")
    name = usable_name(name)
    directory = PipelinesDirectory(settings.pipelines_dir)
    _refuse_overlap(source, directory.root, directory.root / name)
    if _is_itself(source, directory.root / name):
        say(f"{source} is in the pipelines directory already, as {name}: nothing is copied.")
        return _report(settings, directory.root / name, name, how, change=None)
    _refuse_what_is_there(directory, name, directory.root / name, how)
    _check(settings, source, name, how)

    def make(workshop: StagingDir) -> None:
        new = workshop.new / name
        with reporting_os_errors(f"{source} cannot be deployed"):
            new.symlink_to(source) if as_link else _copy(source, new)

    return _put(settings, directory, name, make, name=name, how=how)


def deploy_yaml(settings: Settings, source: Path, *, name: str, description: str | None, how: DeployOptions) -> int:
    """Deploy a copy of the YAML file *source* as *name*; 1 if the server cannot serve it."""
    source = source.absolute()
    name = usable_name(name)
    directory = PipelinesDirectory(settings.pipelines_dir)
    there = [path for path in directory.claims(name) if path.suffix in YAML_SUFFIXES]
    target = there[0] if there else directory.root / f"{name}.yml"
    if description is None and _is_itself(source, target):
        say(f"{source} is in the pipelines directory already: nothing is copied.")
        return _report(settings, target, name, how, change=None)
    _refuse_what_is_there(directory, name, target, how)
    with reporting_os_errors(f"{source} cannot be read"):
        content = source.read_bytes()
    if description is not None:
        content = described(content, description)
    _check(settings, source, name, how)

    def make(workshop: StagingDir) -> None:
        with reporting_os_errors(f"{source} cannot be deployed"):
            (workshop.new / target.name).write_bytes(content)

    return _put(settings, directory, target.name, make, name=name, how=how)


def undeploy(settings: Settings, name: str, *, purge: bool, timeout_s: float) -> int:
    """Take *name* out of the directory, and wait until the server has let go of it."""
    _refuse_path(name)
    directory = PipelinesDirectory(settings.pipelines_dir)
    directory.clear_away()
    path = _deployed(directory, name)
    name = path.stem if path.suffix in YAML_SUFFIXES and not path.is_dir() else path.name
    server = serving(directory.root, settings)
    with reporting_os_errors(f"{path} cannot be taken out"):
        if path.is_symlink():
            to = os.readlink(path)
            path.unlink()
            say(f"Removed the link {path}; {to} is as it was.")
        elif not purge:
            say(f"Moved {path} to {directory.move_to_trash(path)}.")
        else:
            with directory.workshop() as workshop:
                workshop.take_out(path.name)
                _let_go(server, name, timeout_s)
            say(f"Deleted {path}.")
            return 0
    _let_go(server, name, timeout_s)
    return 0


def usable_name(name: str, hint: str = " (-n NAME)") -> str:
    """*name*, if a deployment can be called that.

    Args:
        name: what was asked for.
        hint: how to ask for another; put behind what is wrong.

    Raises:
        click.UsageError: it cannot, and why.
    """
    from hayhooks.endpoints import BUILTIN  # noqa: PLC0415 - these import Starlette, which `list` must not pay for
    from hayhooks.http.dispatch import reserved_names  # noqa: PLC0415 - as above

    _refuse_path(name)
    if name.startswith("_") or is_ignored(name):
        raise click.UsageError(f"the name {name!r} is one that the server passes over: use another{hint}")
    if name.endswith((*YAML_SUFFIXES, ".py")):
        raise click.UsageError(f"the name {name!r} looks like a file's: leave its ending out{hint}")
    if problem := name_problem(name, reserved_names(BUILTIN)):
        raise click.UsageError(f"{problem}{hint}")
    return name


def described(content: bytes, description: str) -> bytes:
    """The YAML *content* with *description* as its top-level key ``description``, and otherwise as it is.

    Raises:
        CannotError: it is no YAML, or not a mapping in lines of its own.
    """
    import yaml  # noqa: PLC0415 - for this alone

    try:
        text = content.decode()
        told = _with_description(text, description)
        is_right = yaml.safe_load(told) == {**yaml.safe_load(text), "description": description}
    except (UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise CommandError(f"no description can be put into what is no YAML mapping: {error}") from None
    if not is_right:
        raise CommandError("no description can be put into this YAML: write the key `description` yourself")
    return told.encode()


def _with_description(text: str, description: str) -> str:
    line = f"description: {json.dumps(description, ensure_ascii=False)}\n"  # JSON's texts are YAML's too
    old = _DESCRIPTION.search(text)
    if old is not None:
        return text[: old.start()] + line + text[old.end() :]
    start = _START.match(text)
    at = start.end() if start else 0
    return text[:at] + line + text[at:]


def _put(
    settings: Settings,
    directory: PipelinesDirectory,
    filename: str,
    make: Callable[[StagingDir], None],
    *,
    name: str,
    how: DeployOptions,
) -> int:
    """Put what *make* makes into the directory as *filename*; when the server cannot serve it, undo that."""
    with directory.workshop() as workshop:
        make(workshop)
        change = workshop.deploy(filename, overwrite=how.overwrite)
        try:
            say(f"{'Replaced' if change.replaced else 'Deployed'} {change.target}.")
            return _report(settings, change.target, name, how, change)
        except KeyboardInterrupt:
            note((f"{name} stays deployed; `hayhooks status` tells what the server makes of it", "yellow"))
            raise


def _report(settings: Settings, target: Path, name: str, how: DeployOptions, change: PendingChange | None) -> int:
    """Say what the server makes of *target*, and undo *change* if that is nothing."""
    server = serving(target.parent, settings)
    if isinstance(server, Unreachable):
        follow.tell_no_server(server)
        return 0
    outcome = follow.follow(server, target, name, how.timeout_s, lambda: change is None or change.stands)
    follow.show(outcome, name)
    if outcome.serves:
        return 0
    if change is not None and how.rollback:
        _undo(server, change, name)
    return 1


def _undo(server: Server, change: PendingChange, name: str) -> None:
    if not change.undo():
        note((f"{change.target} has been replaced by somebody else meanwhile: it was left as it is", "yellow"))
        return
    if not change.replaced:
        say("It was taken out again: nothing was there before.")
        return
    say("What was there before has been put back.")
    with suppress(CommandError):  # it is there, whatever the server makes of it; which it can only tell
        follow.follow(server, change.target, name, _PUTTING_BACK_S, lambda: True)


def _check(settings: Settings, path: Path, name: str, how: DeployOptions) -> None:
    """Load what is to be deployed in a process of its own.

    Raises:
        SystemExit: it does not load, which has been told; nothing was changed.
    """
    if not how.checked:
        return
    with progress(f"Loading {path.name} to see whether it can be"):
        finding = check.find(settings, path, name=name, timeout_s=how.timeout_s)
    check.warn([" ".join(warning.split()) for warning in finding["warnings"]])
    if not finding["ok"]:
        check.show_failure(finding)
        say(("Nothing was deployed.", "yellow"))
        raise SystemExit(1)


def _copy(source: Path, target: Path) -> None:
    paths = copytree.files_in(source)
    for path in copytree.links_out_of(source, paths):
        check.warn([f"{path} is a link that leads out of {source}: in the copy it leads elsewhere"])
    with progress(f"Copying {source.name}", total=len(paths)) as advance:
        left = copytree.copy(source, target, paths, advance.step)
    for path in left:
        check.warn([f"{source / path} is no file that can be copied: it was left out"])


def _let_go(server: Server | Unreachable, name: str, timeout_s: float) -> None:
    if isinstance(server, Unreachable):
        note((server.why, "yellow"))
        return
    remaining = follow.until_gone(server, name, timeout_s)
    if remaining:
        say(f"{name} is not served any more; what it still answers goes on: {remaining}")
    else:
        say(f"{name} is not served any more.")


def _refuse_path(name: str) -> None:
    if name in ("", ".", "..") or name.startswith(".") or "/" in name or "\0" in name:
        raise click.UsageError(f"{name!r} is no name of a deployment: it is one part of a path, without a dot in front")


def _refuse_overlap(source: Path, root: Path, target: Path) -> None:
    """Refuse to copy a folder into itself, or to replace one by a part of it."""
    real, real_root = os.path.realpath(source), os.path.realpath(root)
    if f"{real_root}/".startswith(f"{real}/"):
        raise click.UsageError(
            f"{source} holds the pipelines directory {root}: give the wrapper and its files a folder of their own"
        )
    real_target = f"{real_root}/{target.name}"
    if f"{real}/".startswith(f"{real_target}/") and real != real_target and not target.is_symlink():
        raise click.UsageError(f"{source} lies in {target}, which it would replace: move it out first")


def _is_itself(source: Path, target: Path) -> bool:
    return not target.is_symlink() and os.path.realpath(source) == os.path.realpath(target)


def _refuse_what_is_there(directory: PipelinesDirectory, name: str, target: Path, how: DeployOptions) -> None:
    """Refuse a name that something of another kind has, and one that is not to be overwritten."""
    for path in directory.claims(name):
        if path != target:
            raise CommandError(f"{path} has the name {name!r}: `hayhooks pipeline undeploy {name}` first")
        if not how.overwrite:
            raise CommandError(f"{path} exists already: use --overwrite to replace it, or -n for another name")


def _deployed(directory: PipelinesDirectory, name: str) -> Path:
    """The one entry that is meant by *name*; a file may be named with its ending."""
    claims = directory.claims(name)
    if len(claims) > 1:
        listed = " and ".join(path.name for path in claims)
        raise CommandError(f"{listed} are both called {name!r}: name the file with its ending, or remove one yourself")
    if not claims:
        raise CommandError(f"there is no {name!r} in {directory.root}; `hayhooks pipeline list` shows what is")
    path = claims[0]
    if path.is_dir() and not path.is_symlink() and not os.path.lexists(path / WRAPPER_FILE):
        raise CommandError(f"{path} is no deployment: it has no {WRAPPER_FILE}")
    return path
