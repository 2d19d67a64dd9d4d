"""Plan: compare what is on disk with what is deployed."""

from collections.abc import Mapping
from dataclasses import dataclass

from hayhooks.kernel.state import Revision, Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do to bring the snapshot up to the directory; false when there is nothing to do."""

    load: tuple[Revision, ...] = ()
    forget: tuple[str, ...] = ()  # names whose failure is over, because the files are again those that serve
    remove: tuple[str, ...] = ()  # names that are gone

    def __bool__(self) -> bool:
        return bool(self.load or self.forget or self.remove)


def plan(snapshot: Snapshot, revisions: Mapping[str, Revision]) -> Plan:
    """Compare *snapshot* with the *revisions* on disk.

    A revision that serves, is being loaded or is known to fail is not loaded again: a broken folder costs one
    attempt per save and not one per tick, and a save that takes everything back costs none.
    """
    serving = {name: deployment.revision.fingerprint for name, deployment in snapshot.deployments.items()}
    failed = {name: failure.revision.fingerprint for name, failure in snapshot.failures.items()}
    loading = {name: load.revision.fingerprint for name, load in snapshot.loading.items()}

    def latest(name: str) -> str | None:
        """The fingerprint of the last revision of *name* that was acted upon."""
        return loading.get(name) or failed.get(name) or serving.get(name)

    restored = tuple(name for name, revision in revisions.items() if serving.get(name) == revision.fingerprint)
    return Plan(
        load=tuple(
            revision
            for name, revision in revisions.items()
            if latest(name) != revision.fingerprint and name not in restored
        ),
        forget=tuple(name for name in restored if name in failed or name in loading),
        remove=tuple(sorted((serving.keys() | failed.keys() | loading.keys()) - revisions.keys())),
    )
