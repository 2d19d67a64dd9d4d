"""Coroutines that were never awaited: log entries in place of Python's warnings, with the line of the user's code."""

import re
import sys
import warnings
from typing import Any

from hayhooks.kernel.isolation import current_deployment, deployment_at
from hayhooks.kernel.places import OpenFiles
from hayhooks.kernel.threads import DaemonThreadPool
from hayhooks.observability.log import log
from hayhooks.observability.request_record import current_request

UNAWAITED = "unawaited"  # the event of such an entry

_WARNING = re.compile(r"coroutine .*'(?P<name>[^']+)' was never awaited")
_CREATED_AT = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+), in ', re.MULTILINE)


def remember_makers(frames: int) -> None:
    """Have each coroutine remember so many *frames* of the code that makes it, in this thread and in pools to come."""
    sys.set_coroutine_origin_tracking_depth(frames)
    DaemonThreadPool.remembered_frames = frames


def log_unawaited() -> None:
    """Log each coroutine that was never awaited, for as long as the process lives.

    Its line is that of the code that has made it, if it is remembered, else the one that ran when it was dropped.
    """
    warnings.filterwarnings("always", _WARNING.pattern, RuntimeWarning)
    show_other = warnings.showwarning

    def show(
        message: Any, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        found = _WARNING.match(str(message))
        if found is None:
            show_other(message, category, filename, lineno, file, line)
            return
        made = [(each["file"], int(each["line"])) for each in _CREATED_AT.finditer(str(message))]
        places = (OpenFiles().place(*each) for each in reversed(made or [(filename, lineno)]))
        place = next((each for each in places if each is not None), None)
        name = deployment_at(place.file) if place else ""
        is_prefixed = current_deployment() == name and current_request.get(None) is None  # by the log, as all of setup
        subject = "" if is_prefixed or not name else f"{name}: "
        where = f" ({place.short})" if place else ""
        text = "{}the coroutine {}() was never awaited{}: forgot await?"
        bound = {"place": place, "pipeline": name} if place else {}
        log.bind(event=UNAWAITED, **bound).warning(text, subject, found["name"], where)

    warnings.showwarning = show
