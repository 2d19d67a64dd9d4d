from dataclasses import replace
from pathlib import Path

import pytest

from hayhooks.kernel.state import (
    Change,
    Deployment,
    DeploymentRuntime,
    Failure,
    File,
    Loading,
    Revision,
    Snapshot,
    Stamp,
    advance,
    changes,
    plan,
)
from hayhooks.kernel.threads import DaemonThreadPool


def revision(version: int, name: str = "chat") -> Revision:

    return Revision(name, Path("/pipelines") / name, f"{version:032x}")


def deployment(version: int, name: str = "chat") -> Deployment:
    runtime = DeploymentRuntime(DaemonThreadPool(name, 1))
    return Deployment(revision(version, name), "package", object(), {}, "", 0.0, 0.0, runtime)


def failure(version: int, name: str = "chat") -> Failure:
    return Failure(revision(version, name), "no setup", "", None, "", 0.0)


SERVING = advance(Snapshot(), outcomes=[deployment(1)])


def test_a_new_folder_is_loaded():
    assert plan(Snapshot(), {}, {"chat": revision(1)}).load == (revision(1),)


def test_what_serves_needs_nothing():
    assert not plan(SERVING, {}, {"chat": revision(1)})


def test_a_changed_folder_is_loaded():
    assert plan(SERVING, {}, {"chat": revision(2)}).load == (revision(2),)


def test_what_is_being_loaded_is_not_loaded_again():
    loading = {"chat": Loading(revision(2), 0.0)}

    assert not plan(SERVING, loading, {"chat": revision(2)})
    assert plan(SERVING, loading, {"chat": revision(3)}).load == (revision(3),)


def test_a_failed_revision_is_tried_once_and_the_old_one_stays():
    failed = advance(SERVING, outcomes=[failure(2)])

    assert failed.generation == SERVING.generation + 1
    assert failed.deployments == SERVING.deployments
    assert not plan(failed, {}, {"chat": revision(2)})


def test_restoring_what_serves_forgets_the_failure():
    failed = advance(SERVING, outcomes=[failure(2)])
    todo = plan(failed, {}, {"chat": revision(1)})

    assert (todo.load, todo.forget, todo.remove) == ((), ("chat",), ())
    assert not advance(failed, forget=todo.forget).failures


def test_restoring_what_serves_cancels_a_load():
    loading = {"chat": Loading(revision(2), 0.0)}

    assert plan(SERVING, loading, {"chat": revision(1)}).forget == ("chat",)


@pytest.mark.parametrize("outcome", [deployment(1), failure(1)])
def test_a_name_that_is_gone_is_removed(outcome):
    snapshot = advance(Snapshot(), outcomes=[outcome])

    assert plan(snapshot, {}, {}).remove == ("chat",)
    gone = advance(snapshot, remove=["chat"])
    assert (dict(gone.deployments), dict(gone.failures), gone.generation) == ({}, {}, 2)


def test_a_deployment_ends_the_failure_before_it():
    mended = advance(advance(SERVING, outcomes=[failure(2)]), outcomes=[deployment(3)])

    assert not mended.failures
    assert mended.deployments["chat"].revision == revision(3)


def test_nothing_new_is_the_very_snapshot():
    assert advance(SERVING) is SERVING


def test_loads_and_readiness_are_no_new_generation():
    snapshot = advance(SERVING, loading={"chat": Loading(revision(2), 0.0)}, ready=True, problem="away")

    assert snapshot is not SERVING
    assert snapshot.generation == SERVING.generation
    assert advance(snapshot).ready


def test_a_snapshot_cannot_be_changed():
    with pytest.raises(TypeError):
        SERVING.deployments["other"] = deployment(1, "other")  # type: ignore[index]


def test_changes_come_by_name_with_what_serves_now():
    old, other = deployment(1), deployment(1, "other")
    before = advance(Snapshot(), outcomes=[old, other, failure(1, "broken")])
    failed = failure(2)
    after = advance(before, outcomes=[failed], remove=["other"], forget=["broken"])

    assert list(changes(before, after)) == [
        Change("broken", None, None),
        Change("chat", failed, old),
        Change("other", None, None),
    ]
    assert list(changes(after, after)) == []


def test_a_change_lists_the_files_that_differ():
    def deployed(content: bytes) -> Deployment:
        file = File(Stamp(0, 0, 1, 0, 0), content, content)
        revision = Revision("chat", Path("/pipelines/chat"), content.hex(), {"a.py": file})
        return replace(deployment(1), revision=revision)

    before = advance(Snapshot(), outcomes=[deployed(b"1")])
    (change,) = changes(before, advance(before, outcomes=[deployed(b"2")]))

    assert change.files == ("a.py",)
