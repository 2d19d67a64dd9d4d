"""``hayhooks pipeline deploy-files``, ``deploy`` and ``undeploy``."""

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hayhooks.cli import audit, check, copytree
from hayhooks.cli.client import Server, Unreachable, find_server
from hayhooks.cli.options import advice, refuse_long
from hayhooks.cli.output import CommandError, note, progress, say
from hayhooks.cli.staging import PendingChange, PipelinesDirectory, StagingDir, reporting_os_errors
from hayhooks.cli.wait import say_unreachable, show_result, wait_until_loaded, wait_until_released
from hayhooks.kernel.discovery import WRAPPER_FILE, YAML_SUFFIXES, is_ignored, name_problem
from hayhooks.settings import Settings

if TYPE_CHECKING:
    from hayhooks.kernel.revision_store import RevisionStore

# The key `description` with its value: the following indented lines, and empty lines between them.
_DESCRIPTION = re.compile(
    r"""^(['"]?)description\1[ \t]*:.*\n?(?:[ \t]+\S.*\n?|[ \t]*\n(?=(?:[ \t]*\n)*[ \t]+\S))*""", re.M
)
_PREAMBLE = re.compile(r"\ufeff|(?:(?:%.*|#.*|[ \t]*)\n)*?---[ \t]*(?:#.*)?\n")  # must stay first
_ROLLBACK_TIMEOUT_S = 10.0  # for the server to load the previous version again


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """Options of the deploy commands."""

    overwrite: bool
    rollback: bool
    checked: bool  # load it in a separate process before anything changes
    timeout_s: float  # for that load, and again for the server's
    canary: float | None = None  # share of the requests that it gets at first; None: as it or the server is set


def deploy_files(settings: Settings, source: Path, *, name: str, as_link: bool, options: DeployOptions) -> int:
    """Deploy a copy of a folder, or a link; return 1 if the server cannot load it."""
    source = source.absolute()
    if not (source / WRAPPER_FILE).is_file():
        raise CommandError(f"{source} has no {WRAPPER_FILE}: a wrapper's folder needs one")
    name = usable_name(name)
    directory = PipelinesDirectory(settings.pipelines_dir)
    _refuse_overlap(source, directory.root, directory.root / name)
    if _is_itself(source, directory.root / name):
        say(f"{source} is already in the pipelines directory, as {name}: nothing was copied.")
        return _report(settings, directory.root / name, name, options, change=None)
    _refuse_existing(directory, name, directory.root / name, options)
    _check(settings, source, name, options)

    def make(staging: StagingDir) -> None:
        new = staging.new / name
        with reporting_os_errors(f"Cannot deploy {source}"):
            new.symlink_to(source) if as_link else _copy(source, new)

    return put(settings, directory, name, make, name=name, options=options)


def deploy_yaml(settings: Settings, source: Path, *, name: str, description: str | None, options: DeployOptions) -> int:
    """Deploy a copy of a YAML file; return 1 if the server cannot load it."""
    source = source.absolute()
    name = usable_name(name, suffix=".yml")
    directory = PipelinesDirectory(settings.pipelines_dir)
    existing = [path for path in directory.entries(name) if path.suffix in YAML_SUFFIXES]
    target = existing[0] if existing else directory.root / f"{name}.yml"
    if description is None and _is_itself(source, target):
        say(f"{source} is already in the pipelines directory: nothing was copied.")
        return _report(settings, target, name, options, change=None)
    _refuse_existing(directory, name, target, options)
    with reporting_os_errors(f"Cannot read {source}"):
        content = source.read_bytes()
    if description is not None:
        content = with_description(content, description)
    _check(settings, source, name, options)

    def make(staging: StagingDir) -> None:
        with reporting_os_errors(f"Cannot deploy {source}"):
            (staging.new / target.name).write_bytes(content)

    return put(settings, directory, target.name, make, name=name, options=options)


def undeploy(settings: Settings, name: str, *, purge: bool, timeout_s: float) -> int:
    """Remove a deployment, and wait until the server has released it."""
    _refuse_path(name)
    refuse_long(name)
    directory = PipelinesDirectory(settings.pipelines_dir)
    directory.clear_abandoned()
    path = _deployed(directory, name)
    name = path.stem if path.suffix in YAML_SUFFIXES and not path.is_dir() else path.name
    server = find_server(directory.root, settings)
    with reporting_os_errors(f"Cannot remove {path}"):
        audit.record(settings, "undeploy", name, path=str(path))
        if path.is_symlink():
            to = os.readlink(path)
            path.unlink()
            say(f"Removed the link {path}; {to} is unchanged.")
        elif not purge:
            say(f"Moved {path} to {directory.move_to_trash(path)}.")
        else:
            with directory.staging() as staging:
                staging.take_out(path.name)
                _wait_undeployed(server, name, timeout_s)
            say(f"Deleted {path}.")
            _say_way_back(settings, "restore", name)
            return 0
    _wait_undeployed(server, name, timeout_s)
    _say_way_back(settings, "restore", name)
    return 0


def usable_name(name: str, hint: str = " (-n NAME)", *, suffix: str = "") -> str:
    """Return *name*, or exit with an error that ends in *hint* if no folder, or file with *suffix*, can have it."""
    from hayhooks.endpoints import BUILTIN  # noqa: PLC0415 - imports Starlette, which `undeploy` does not need
    from hayhooks.http.dispatch import reserved_names  # noqa: PLC0415 - as above

    _refuse_path(name)
    refuse_long(name, suffix)
    if name.startswith("_") or is_ignored(name):
        raise click.UsageError(f"The server ignores the name {name!r}: use another name{hint}")
    if name.endswith((*YAML_SUFFIXES, ".py")):
        raise click.UsageError(f"The name {name!r} has the suffix of a file: leave it out{hint}")
    if problem := name_problem(name, reserved_names(BUILTIN)):
        fit = re.sub(r"[^\w.~-]+", "-", name).strip("-._")
        raise click.UsageError(f"{problem}{f', such as {fit!r}' if fit not in ('', name) else ''}{hint}")
    return name


def with_description(content: bytes, description: str) -> bytes:
    """Set the key ``description`` in *content*, a YAML mapping in block style."""
    import yaml  # noqa: PLC0415 - only needed here

    try:
        text = content.decode()
        line = f"description: {json.dumps(description, ensure_ascii=False)}\n"  # JSON strings are YAML strings
        if old := _DESCRIPTION.search(text):
            start, end = old.span()
        else:
            preamble = _PREAMBLE.match(text)
            start = end = preamble.end() if preamble else 0
        changed = text[:start] + line + text[end:]
        is_right = yaml.safe_load(changed) == {**yaml.safe_load(text), "description": description}
    except (UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        raise CommandError(f"Cannot add a description to a file that is not a YAML mapping: {error}") from None
    if not is_right:
        raise CommandError("Cannot add a description to this YAML: write the key `description` yourself")
    return changed.encode()


def put(
    settings: Settings,
    directory: PipelinesDirectory,
    filename: str,
    make: Callable[[StagingDir], None],
    *,
    name: str,
    options: DeployOptions,
    what: str = "deploy",
) -> int:
    """Deploy the entry *filename* that *make* creates in the staging directory; *what* is the command's name."""
    with directory.staging() as staging:
        make(staging)
        asked_canary = None
        if options.canary is not None:
            asked_canary = _ask_canary(settings, directory.root, staging.new, name, options.canary)
        change = staging.deploy(filename, overwrite=options.overwrite)
        try:
            say(f"{'Replaced' if change.replaced else 'Deployed'} {change.target}.")
            status = _report(settings, change.target, name, options, change)
            if status and asked_canary is not None:  # the next deploy of these files may ask for none
                asked_canary.unlink(missing_ok=True)
            asked = {"canary": options.canary} if options.canary else {}
            audit.record(settings, what, name, replaced=change.replaced, failed=bool(status), **asked)
            if change.replaced and not status and not options.canary:  # of a canary, `abort` has been told
                _say_way_back(settings, "rollback", name)
            return status
        except KeyboardInterrupt:
            note((f"{name} stays deployed; `{advice('status')}` shows the result", "yellow"))
            raise


def _report(settings: Settings, target: Path, name: str, options: DeployOptions, change: PendingChange | None) -> int:
    """Report the server's result, and roll back *change* if the load failed."""
    server = find_server(target.parent, settings)
    if isinstance(server, Unreachable):
        say_unreachable(server)
        return 0
    result = wait_until_loaded(server, target, name, options.timeout_s, lambda: change is None or change.is_current)
    show_result(result, name)
    if result.serves:
        if options.canary and not result.state["canary"]:
            why = "the files are those that serve already, or nothing served before"
            why += ", or the server has no canaries (HAYHOOKS_CANARY_SECONDS is 0, or it is `hayhooks dev`)"
            note((f"It is no canary, and gets all requests: {why}", "yellow"))
        return 0
    if change is None or not options.rollback:
        return 1
    if not change.undo():
        note((f"{change.target} has been replaced by another process: it was not rolled back", "yellow"))
    elif not change.replaced:
        say("It was removed again: nothing was there before.")
    else:
        say("What was there before has been put back.")
        with suppress(CommandError):  # the files are restored, whatever the server says
            wait_until_loaded(server, target, name, _ROLLBACK_TIMEOUT_S, lambda: True)
    return 1


def _ask_canary(settings: Settings, root: Path, new: Path, name: str, share: float) -> Path | None:
    """Mark in the state directory which share of the requests the files of *name* in *new* get at first."""
    from hayhooks.kernel.scan import read_now  # noqa: PLC0415 - most deploys need none of it

    store = audit.store_of(settings)
    if store is None:
        if share:
            raise CommandError("A canary needs the state directory, but HAYHOOKS_STATE_DIR is empty")
        return None
    server = find_server(root, settings)
    if share and isinstance(server, Server):
        refuse_other_store(server, store)
    revision = read_now(new, name, settings.python_path)
    with reporting_os_errors(f"Cannot write to the state directory {store.directory}"):
        # Without a revision the server says what is wrong with it.
        return store.ask_canary(name, revision.fingerprint, share) if revision is not None else None


def refuse_other_store(server: Server, store: "RevisionStore") -> None:
    """Exit with an error if *server* would not see what is noted in *store*."""
    used = server.status().get("state_directory")
    if used != str(store.directory):
        kept = f"keeps its state in {used}" if used else "has no state directory"
        raise CommandError(f"The server {kept}, this command in {store.directory}: set HAYHOOKS_STATE_DIR for both")


def _check(settings: Settings, path: Path, name: str, options: DeployOptions) -> None:
    """Load *path* in a separate process; exit with the reason if it does not load."""
    if not options.checked:
        return
    with progress(f"Loading {path.name}"):
        finding = check.check_in_process(settings, path, name=name, timeout_s=options.timeout_s)
    check.warn([" ".join(warning.split()) for warning in finding["warnings"]])
    if not finding["ok"]:
        check.show_failure(finding)
        say(("Nothing was deployed.", "yellow"))
        raise SystemExit(1)


def _copy(source: Path, target: Path) -> None:
    paths = copytree.files_in(source)
    for path in copytree.links_out_of(source, paths):
        check.warn([f"{path} is a relative link out of {source}: in the copy its target differs"])
    with progress(f"Copying {source.name}", total=len(paths)) as bar:
        skipped = copytree.copy(source, target, paths, bar.step)
    for path in skipped:
        check.warn([f"{source / path} is a special file: it was not copied"])


def _wait_undeployed(server: Server | Unreachable, name: str, timeout_s: float) -> None:
    if isinstance(server, Unreachable):
        note((server.why, "yellow"))
        return
    remaining = wait_until_released(server, name, timeout_s)
    if remaining:
        say(f"{name} is no longer served; requests still in progress: {remaining}")
    else:
        say(f"{name} is no longer served.")


def _say_way_back(settings: Settings, command: str, name: str) -> None:
    store = audit.store_of(settings)
    with suppress(OSError):
        if store is not None and store.saved(name):
            say(f"`{advice(f'pipeline {command} {name}', with_directory=True)}` brings the previous revision back.")


def _refuse_path(name: str) -> None:
    if name in ("", ".", "..") or name.startswith(".") or "/" in name or "\0" in name:
        raise click.UsageError(f"{name!r} is not a valid name: use one path segment that does not start with a dot")


def _refuse_overlap(source: Path, root: Path, target: Path) -> None:
    """Refuse to copy a folder into itself, or to replace one by a part of it."""
    real, real_root = os.path.realpath(source), os.path.realpath(root)
    if f"{real_root}/".startswith(f"{real}/"):
        raise click.UsageError(
            f"{source} contains the pipelines directory {root}: move the wrapper into a folder of its own"
        )
    real_target = f"{real_root}/{target.name}"
    if f"{real}/".startswith(f"{real_target}/") and real != real_target and not target.is_symlink():
        raise click.UsageError(f"{source} is inside {target}, which it would replace: move it out first")


def _is_itself(source: Path, target: Path) -> bool:
    return not target.is_symlink() and os.path.realpath(source) == os.path.realpath(target)


def _refuse_existing(directory: PipelinesDirectory, name: str, target: Path, options: DeployOptions) -> None:
    for path in directory.entries(name):
        if path != target:
            remove = advice(f"pipeline undeploy {name}", with_directory=True)
            raise CommandError(f"{path} already has the name {name!r}: `{remove}` first")
        if not options.overwrite:
            raise CommandError(f"{path} already exists: use --overwrite to replace it, or -n for another name")


def _deployed(directory: PipelinesDirectory, name: str) -> Path:
    """Return the one entry called *name*; a file may be given with its suffix."""
    entries = directory.entries(name)
    if len(entries) > 1:
        listed = " and ".join(path.name for path in entries)
        raise CommandError(
            f"{listed} both have the name {name!r}: give the file with its suffix, or remove one yourself"
        )
    if not entries:
        show = advice("pipeline list", with_directory=True)
        raise CommandError(f"There is no {name!r} in {directory.root}; `{show}` shows all")
    path = entries[0]
    if path.is_dir() and not path.is_symlink() and not os.path.lexists(path / WRAPPER_FILE):
        raise CommandError(f"{path} is not a deployment: it has no {WRAPPER_FILE}")
    return path
