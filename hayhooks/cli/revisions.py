"""``hayhooks pipeline history``, ``diff``, ``rollback``, ``restore``, ``promote`` and ``abort``: saved revisions."""

import difflib
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from hayhooks.cli import audit
from hayhooks.cli.client import Unreachable, find_server
from hayhooks.cli.deploy import DeployOptions, put, refuse_other_store, usable_name
from hayhooks.cli.options import advice
from hayhooks.cli.output import CommandError, note, say, say_json, say_table
from hayhooks.cli.staging import PipelinesDirectory, StagingDir, reporting_os_errors
from hayhooks.cli.wait import wait_until_canary_ended
from hayhooks.errors import closest
from hayhooks.kernel.revision_store import RevisionStore, SavedRevision
from hayhooks.kernel.scan import read_now
from hayhooks.kernel.state import RevisionKind, digest_of
from hayhooks.settings import Settings

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def history(settings: Settings, name: str | None, *, as_json: bool) -> int:
    """Print the saved revisions of *name*, or of all names."""
    store = _store(settings)
    with reporting_os_errors(f"Cannot read {store.directory}"):
        names = [name] if name else store.names()
        saved = [each for name in names for each in store.saved(name)]
    if as_json:
        say_json([{"name": each.name, **each.facts()} for each in saved])
    elif not saved:
        say(f"No revision{f' of {name}' if name else ''} has been saved in {store.directory}.")
    else:
        rows = [
            (each.name, each.id, _time(each.last_served_at), f"{each.load_ms:.0f} ms", each.ended or "-")
            for each in saved
        ]
        say_table(("name", "revision", "last served", "load", "ended"), rows)
    return 0


def diff(settings: Settings, name: str, before: str | None, after: str | None) -> int:
    """Print what differs between two saved revisions, or one and the pipelines directory."""
    store = _store(settings)
    root = settings.pipelines_dir.absolute()
    present = None if after else _present(root, name)
    old = _chosen(store, name, before, None if present is None else _digests(present))
    new = _chosen(store, name, after, None) if after else None
    with reporting_os_errors("Cannot read a file"):
        old_files = _contents(store, old)
        new_files = _contents(store, new) if new else present or {}
    if new is None:  # of these, what is there is not known, or not to be compared
        old_files = {path: content for path, content in old_files.items() if path in old.files}
        new_files = {path: content for path, content in new_files.items() if path not in old.linked}
    differs = False
    for path in sorted(old_files.keys() | new_files.keys()):
        if old_files.get(path) != new_files.get(path):
            differs = True
            labels = (f"{old.id}/{path}", f"{new.id if new else name}/{path}")
            for line in _unified(old_files.get(path, b""), new_files.get(path, b""), *labels):
                say((line, _COLOURS.get(line[:1], "")))
    if not differs:
        say("There is no difference.")
    return 0


def rollback(settings: Settings, name: str, revision: str | None, *, force: bool, timeout_s: float) -> int:
    """Put a saved revision in place of the present one; return 1 if the server cannot load it."""
    name = usable_name(name, hint="")
    directory, store = PipelinesDirectory(settings.pipelines_dir), _store(settings)
    present = directory.entries(name)
    if not present:
        command = advice(f"pipeline restore {name}", with_directory=True)
        way = f"; `{command}` brings it back" if store.saved(name) else ", and no revision of it has been saved"
        raise CommandError(f"There is no {name!r} in {directory.root}{way}")
    chosen = _chosen(store, name, revision, _digests(_present(directory.root, name)))
    for path in present:
        if path.name != chosen.entry:
            raise CommandError(
                f"{path} has the name {name!r}, but revision {chosen.id} is {chosen.entry}: move it away"
            )
        if path.is_symlink() and not force:
            raise CommandError(f"{path} is a link to {os.readlink(path)}: use --force to replace it by a copy")
    return _put(settings, directory, store, chosen, timeout_s, "rollback")


def restore(settings: Settings, name: str, revision: str | None, *, timeout_s: float) -> int:
    """Put the last revision of a name that was removed back; return 1 if the server cannot load it."""
    name = usable_name(name, hint="")
    directory, store = PipelinesDirectory(settings.pipelines_dir), _store(settings)
    for path in directory.entries(name):
        command = advice(f"pipeline rollback {name}", with_directory=True)
        raise CommandError(f"{path} is there: `{command}` replaces it by an earlier revision")
    return _put(settings, directory, store, _chosen(store, name, revision, None), timeout_s, "restore")


def end_canary(settings: Settings, name: str, *, promotes: bool, timeout_s: float) -> int:
    """Let the canary of *name* get all requests, or none; return 1 if another revision serves after it."""
    root, store = settings.pipelines_dir.absolute(), _store(settings)
    server = find_server(root, settings)
    if isinstance(server, Unreachable):
        raise CommandError(server.why)
    found = server.state(name)
    if found is None:
        meant = closest(name, [each["name"] for each in server.status()["deployments"]])
        raise CommandError(f"The server has no {name!r}" + (f"; did you mean {meant!r}?" if meant else ""))
    revision = found["canary"]
    if not revision:
        raise CommandError(f"{name!r} has no canary; `{advice('status')}` shows what serves")
    refuse_other_store(server, store)
    fingerprint = store.canary_of(name, revision)
    if fingerprint is None:
        raise CommandError(
            f"The state directory {store.directory} does not say that {revision} is a canary: "
            "it is ending, or it could not be marked"
        )
    with reporting_os_errors(f"Cannot write to the state directory {store.directory}"):
        if promotes:
            store.promote(name, fingerprint)
        else:
            store.roll_back(name, fingerprint, f"aborted by {audit.user()}")
    audit.record(settings, "promote" if promotes else "abort", name, revision=revision)
    state = wait_until_canary_ended(server, name, timeout_s)
    is_serving = state["revision"] == revision
    what = "gets all requests." if is_serving else f"gets no requests: revision {state['revision']} has them all."
    say(f"Revision {revision} of {name} {what}")
    if not promotes and not is_serving and state["found"] and state["found"]["revision"] == revision:
        say(f"Its files are still there; `{advice(f'pipeline rollback {name}', with_directory=True)}` replaces them.")
    return int(is_serving is not promotes)


def _put(
    settings: Settings,
    directory: PipelinesDirectory,
    store: RevisionStore,
    chosen: SavedRevision,
    timeout_s: float,
    what: str,
) -> int:
    for module, (path, digest, _) in chosen.shared.items():
        if not Path(path).is_file() or Path(path).read_bytes() != _content(store, digest):
            note((f"The shared module {module} ({path}) is not as revision {chosen.id} had it", "yellow"))

    def make(staging: StagingDir) -> None:
        with reporting_os_errors(f"Cannot write revision {chosen.id}"):
            try:
                store.write(chosen, staging.new / chosen.entry, directory.root / chosen.entry)
            except ValueError as error:
                raise CommandError(f"Revision {chosen.id} cannot be used: {error}") from None

    # At once: who goes back does not want to wait for a canary.
    options = DeployOptions(overwrite=True, rollback=True, checked=False, timeout_s=timeout_s, canary=0)
    say(f"Revision {chosen.id}, last served {_time(chosen.last_served_at)}.")
    return put(settings, directory, chosen.entry, make, name=chosen.name, options=options, what=what)


def _store(settings: Settings) -> RevisionStore:
    store = audit.store_of(settings)
    if store is None:
        raise CommandError("No revisions are kept: HAYHOOKS_STATE_DIR is empty")
    return store


def _chosen(
    store: RevisionStore, name: str, revision: str | None, differing_from: Mapping[str, str] | None
) -> SavedRevision:
    """Return the saved revision whose id begins so, or the last one whose files are others."""
    with reporting_os_errors(f"Cannot read {store.directory}"):
        saved = store.saved(name)
    if revision is not None:
        found = [each for each in saved if each.fingerprint.startswith(revision)]
    else:
        found = [
            each for each in saved if each.is_good and (differing_from is None or not _equals(each, differing_from))
        ][:1]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(each.id for each in saved) or "none"
    what = f"revision {revision!r}" if revision is not None else "other revision" if saved else "revision"
    raise CommandError(f"{'More than one' if found else 'No'} {what} of {name!r} has been saved (saved: {listed})")


def _equals(saved: SavedRevision, digests: Mapping[str, str]) -> bool:
    return {path: digest for path, digest in digests.items() if path not in saved.linked} == saved.files


def _present(root: Path, name: str) -> dict[str, bytes]:
    revision = read_now(root, name)
    if revision is None:
        return {}
    folder = revision.path if revision.kind is RevisionKind.FOLDER else revision.path.parent
    with reporting_os_errors(f"Cannot read {folder}"):
        return {path: (folder / path).read_bytes() for path in revision.files}


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {path: digest_of(content).hex() for path, content in files.items()}


def _contents(store: RevisionStore, saved: SavedRevision) -> dict[str, bytes]:
    own = {path: _content(store, digest) for path, digest in saved.files.items()}
    shared = {f"{module} (shared)": _content(store, digest) for module, (_, digest, _) in saved.shared.items()}
    return {**own, **shared}


def _content(store: RevisionStore, digest: str) -> bytes:
    try:
        return store.content(digest)
    except (OSError, ValueError) as error:
        raise CommandError(f"The revision cannot be read: {error}") from None


def _unified(old: bytes, new: bytes, old_label: str, new_label: str) -> list[str]:
    try:
        old_lines, new_lines = old.decode().splitlines(), new.decode().splitlines()
    except UnicodeDecodeError:
        return [f"Binary files {old_label} and {new_label} differ"]
    return list(difflib.unified_diff(old_lines, new_lines, old_label, new_label, lineterm=""))


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"
