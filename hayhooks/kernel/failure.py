"""Failure: the error of a load as text. An exception would keep the modules alive."""

import re
import time
import traceback as tracebacks
from pathlib import Path

from hayhooks.errors import LoadError, Place, fold, safe_str, sendable
from hayhooks.kernel.import_hints import import_hint
from hayhooks.kernel.isolation import with_public_names
from hayhooks.kernel.places import innermost_place
from hayhooks.kernel.state import Failure, Revision, RevisionKind

_KEY_MISSING = "None of the following authentication environment variables are set:"  # Haystack's ValueError


def failure_of(revision: Revision, error: BaseException) -> Failure:
    """Describe *error*, raised by the load of *revision*."""
    if not isinstance(error, LoadError):
        message = " ".join(safe_str(error).split()) or "(no message)"
        reason = f"{type(error).__name__}: {with_public_names(message)}"
        try:
            fold(error, keeps_ours=False)
            lines = [
                (frame.filename, frame.lineno or 1) for frame in reversed(tracebacks.extract_tb(error.__traceback__))
            ]
            if isinstance(error, SyntaxError) and error.filename:
                lines.insert(0, (error.filename, error.lineno or 1))
            error = LoadError(
                f"{reason}{_component(error)}",
                traceback=with_public_names("".join(tracebacks.format_exception(error))),
                place=innermost_place(revision, lines),
                hint=_hint(error, revision),
            )
        # The user's own error classes may raise from any attribute: then only the frames can be shown.
        except BaseException:
            frames = "".join(tracebacks.format_tb(error.__traceback__))
            error = LoadError(reason, traceback=with_public_names(frames))
    elif error.__cause__ is not None and not error.hint:
        error.hint = import_hint(error, revision)
    place = error.place and Place(sendable(error.place.file), error.place.line, sendable(error.place.source))
    traceback, hint = sendable(error.traceback), sendable(error.hint)
    return Failure(revision, sendable(with_public_names(error.reason)), traceback, place, hint, time.time())


def _component(error: BaseException) -> str:
    """Return in which of Haystack's components *error* was raised, to end the reason with; "" if in none."""
    selves = [frame.f_locals.get("self") for frame, _ in tracebacks.walk_tb(error.__traceback__)]
    components = [this for this in selves if "__haystack_input__" in getattr(this, "__dict__", {})]
    if not components:
        return ""
    innermost = components[-1]
    name = type(innermost).__name__
    named = next((each for each in reversed(components) if "__component_name__" in vars(each)), None)  # in a pipeline
    if named is None:
        return f", in {name}"
    place = f"component {named.__component_name__!r}"
    return f", in {place} ({name})" if named is innermost else f", in {name} in {place}"


def _hint(error: BaseException, revision: Revision) -> str:
    if isinstance(error, OSError) and Path(str(error.filename)).name == ".haystack":  # Haystack makes it on import
        return "HAYSTACK_TELEMETRY_ENABLED=false, or HOME=a directory that can be written to"
    if _KEY_MISSING in (message := safe_str(error)):
        variables = " or ".join(re.findall(r"'(\w+)'", message.partition(_KEY_MISSING)[2]))
        otherwise = ", or `warm_up = False` in the wrapper to load it without"
        return f"set {variables}{'' if revision.kind is RevisionKind.YAML else otherwise}"
    return import_hint(error, revision)
