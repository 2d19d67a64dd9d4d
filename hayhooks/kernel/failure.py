"""Failure: the error of a load as text. An exception would keep the modules alive."""

import re
import time
import traceback as tracebacks
from pathlib import Path

from hayhooks.errors import LoadError, Place, fold, safe_str, sendable
from hayhooks.kernel.import_hints import import_hint
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.name_hints import name_hint
from hayhooks.kernel.places import RevisionFiles
from hayhooks.kernel.state import Failure, Revision, RevisionKind
from hayhooks.kernel.user_errors import cause_lines, headline, place_of

_KEY_MISSING = "None of the following authentication environment variables are set:"  # Haystack's ValueError


def rolled_back(revision: Revision, why: str) -> Failure:
    """Return the failure of *revision*, which has served and must not any more."""
    return Failure(revision, why, "", None, "", time.time(), has_served=True)


def failure_of(revision: Revision, error: BaseException) -> Failure:
    """Describe *error*, raised by the load of *revision*."""
    causes: tuple[str, ...] = ()
    if not isinstance(error, LoadError):
        reason = f"{type(error).__name__}: {' '.join(safe_str(error).split()) or '(no message)'}"
        try:
            fold(error, keeps_ours=False)
            if safe_str(error) or isinstance(error, BaseExceptionGroup):
                reason = " ".join(headline(error).split())
            files = RevisionFiles(revision)
            causes = tuple(cause_lines(error, files))
            error = LoadError(
                reason,
                traceback=with_public_names("".join(tracebacks.format_exception(error))),
                place=place_of(error, files),
                hint=_hint(error, revision),
            )
        # The user's own error classes may raise from any attribute: then only the frames can be shown.
        except BaseException:
            frames = "".join(tracebacks.format_tb(error.__traceback__))
            error = LoadError(reason, traceback=with_public_names(frames))
    elif error.__cause__ is not None and not error.hint:
        error.hint = import_hint(error, revision) or name_hint(error, RevisionFiles(revision))
    place = error.place and Place(sendable(error.place.file), error.place.line, sendable(error.place.source))
    traceback, hint = sendable(error.traceback), sendable(error.hint)
    reason, causes = _as_sent(error.reason), tuple(map(_as_sent, causes))
    return Failure(revision, reason, traceback, place, hint, time.time(), causes)


def _as_sent(text: str) -> str:
    return sendable(with_public_names(text))


def _hint(error: BaseException, revision: Revision) -> str:
    if isinstance(error, OSError) and Path(str(error.filename)).name == ".haystack":  # Haystack makes it on import
        return "HAYSTACK_TELEMETRY_ENABLED=false, or HOME=a directory that can be written to"
    if _KEY_MISSING in (message := safe_str(error)):
        variables = " or ".join(re.findall(r"'(\w+)'", message.partition(_KEY_MISSING)[2]))
        otherwise = ", or `warm_up = False` in the wrapper to load it without"
        return f"set {variables}{'' if revision.kind is RevisionKind.YAML else otherwise}"
    return import_hint(error, revision) or name_hint(error, RevisionFiles(revision))
