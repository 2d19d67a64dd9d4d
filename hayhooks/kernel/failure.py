"""Failures: what a load raised, told as text. An exception would keep the failed modules alive."""

import importlib
import linecache
import time
import traceback as tracebacks
from pathlib import Path

from hayhooks.errors import LoadError, Place, safe_str, sendable
from hayhooks.kernel.isolation import PREFIX, with_public_names
from hayhooks.kernel.state import Failure, Revision

_OURS = (str(Path(__file__).parent.parent), str(Path(importlib.__file__).parent), "<frozen importlib")  # frames


def failure_of(revision: Revision, error: BaseException) -> Failure:
    """What *error*, raised by the load of *revision*, says: the reason, where it is and what would help."""
    if not isinstance(error, LoadError):
        error = _translated(error, revision)
    elif isinstance(error.__cause__, ModuleNotFoundError):
        error.hint = error.hint or _hint(error.__cause__, revision)
    place = error.place and Place(sendable(error.place.file), error.place.line, sendable(error.place.source))
    traceback, hint = sendable(error.traceback), sendable(error.hint)
    return Failure(revision, sendable(with_public_names(error.reason)), traceback, place, hint, time.time())


def _translated(error: BaseException, revision: Revision) -> LoadError:
    """What the user's code raised, as text: reason, traceback without our own frames, place and hint."""
    message = " ".join(safe_str(error).split()) or "(no message)"
    reason = f"{type(error).__name__}: {with_public_names(message)}"
    try:
        traceback = "".join(_without_our_frames(tracebacks.TracebackException.from_exception(error)).format())
        return LoadError(
            reason,
            traceback=with_public_names(traceback),
            place=_place(error, str(revision.path)),
            hint=_hint(error, revision),
        )
    # Errors may be of the user's own making, down to their attributes: then only the frames can be told.
    except BaseException:
        return LoadError(reason, traceback=with_public_names("".join(tracebacks.format_tb(error.__traceback__))))


def _without_our_frames(told: tracebacks.TracebackException) -> tracebacks.TracebackException:
    """*told*, and what it came from, without the frames of hayhooks and of the import machinery."""
    told.stack = tracebacks.StackSummary.from_list(
        [frame for frame in told.stack if not frame.filename.startswith(_OURS)]
    )
    for origin in (told.__cause__, told.__context__):
        if origin is not None:
            _without_our_frames(origin)
    return told


def _place(error: BaseException, folder: str) -> Place | None:
    """The innermost place in *folder*: of a syntax error the line it is in, else the last frame there."""
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(folder):
        return Place(error.filename, error.lineno or 1, (error.text or "").strip())
    for frame in reversed(tracebacks.extract_tb(error.__traceback__)):
        if frame.filename.startswith(folder):
            line = frame.lineno or 1
            linecache.checkcache(frame.filename)
            return Place(frame.filename, line, (frame.line or "").strip())
    return None


def _hint(error: BaseException, revision: Revision) -> str:
    if isinstance(error, OSError) and Path(str(error.filename)).name == ".haystack":  # which it makes when imported
        return "HAYSTACK_TELEMETRY_ENABLED=false, or HOME=a directory that can be written to"
    if not isinstance(error, ModuleNotFoundError) or not error.name or error.name.startswith(PREFIX):
        return ""  # of a file that is missing beside the wrapper the message says all
    top = error.name.partition(".")[0]
    if "requirements.txt" in revision.files:
        return f"pip install -r {revision.path / 'requirements.txt'}"
    return f"pip install {_DISTRIBUTIONS.get(top, top.replace('_', '-'))}"


# Import names whose distribution is called something else, among those that Haystack users meet.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dotenv": "python-dotenv",
    "fitz": "pymupdf",
    "haystack_integrations": "the integration's package (see https://haystack.deepset.ai/integrations)",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
