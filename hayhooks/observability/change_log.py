"""Change log: one log line for each deploy, failure and removal."""

from typing import Any

from hayhooks.kernel.places import RevisionFiles
from hayhooks.kernel.state import Change, Deployment, Failure
from hayhooks.observability.log import log
from hayhooks.setting_types import share_text


def log_change(change: Change) -> None:
    """Log *change* in one line, and a failure with its place, hint and traceback."""
    logger = log.bind(pipeline=change.name, event=change.event)
    match change.outcome:
        case Deployment(revision=revision, load_ms=load_ms) as outcome:
            logger = logger.bind(revision=revision.id)
            logger = logger.bind(took_ms=round(change.took_ms, 1), load_ms=round(load_ms, 1))
            text = "Deployed {} {} in {:.0f} ms (load: {:.0f} ms)"
            if outcome is not change.serving and change.serving:
                others = f"revision {change.serving.revision.id} the others"
                share = share_text(outcome.canary)
                text = f"Deployed {{}} {{}} as a canary: it gets {share} of the requests, {others}"
            elif change.was_canary:
                text = "Promoted {} {}: it gets all requests"
            elif revision.is_restored:
                text = "Deployed {} {}, as it was saved when it served before what is on disk"
            logger.info(text, change.name, revision.id, change.took_ms, load_ms)
        case Failure() as failure:
            still = f"; {change.still}" if change.still else ""
            logger = logger.bind(revision=failure.revision.id, took_ms=round(change.took_ms, 1))
            logger = logger.bind(serving=change.serving.revision.id if change.serving else None)
            text = f"\n{failure_text(failure)}"
            if change.same_as and failure.place:
                text = f": as {change.same_as}, {failure.place.file}:{failure.place.line}"
            what = "Rolled back" if failure.has_served else "Failed to load"
            logger.error("{} {} {}{}{}", what, change.name, failure.revision.id, still, text)
        case None if change.serving is None:
            logger.info("Undeployed {}", change.name)
        case None:
            serving = change.serving.revision.id
            logger.bind(revision=serving).info("{} is again at the revision that serves, {}", change.name, serving)


def failure_text(failure: Failure) -> str:
    """Format *failure* for people: reason, place in their code, hint and traceback."""
    lines = [failure.reason]
    if failure.place is not None:
        lines.append(f"at {failure.place}")
    if failure.hint:
        lines.append(f"hint: {failure.hint}")
    if failure.traceback:
        lines += ["", failure.traceback.rstrip()]
    return "\n".join(lines)


def failure_parts(failure: Failure) -> dict[str, Any]:
    """Return the parts of *failure* for programs: reason, place with the source lines around it, hint, traceback."""
    place = failure.place
    return {
        "reason": failure.reason,
        "place": place
        and {"file": place.file, "line": place.line, "source": RevisionFiles(failure.revision).around(place)},
        "hint": failure.hint,
        "traceback": failure.traceback,
    }
