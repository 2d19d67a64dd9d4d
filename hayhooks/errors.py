"""Every error that hayhooks raises on purpose.

DisconnectedError         the client went away                               -> nothing is sent
ExpiredError              the server cancelled the request                   -> a stream ends with the error
 ├── DrainedError         it outlived its replaced deployment                -> 503
 └── TimedOutError        it took longer than its deployment allows          -> 504
HayhooksError
 ├── StartError           a setting, or an application's code, is not usable -> one line, and no server
 ├── LoadError            a revision does not load                           -> a failure in /status
 ├── InvalidInputError    the arguments of a request are not valid           -> 422
 ├── PipelineError        the user's code raised while serving a request     -> 500
 ├── UnavailableError     the deployment exists but cannot serve now         -> 503
 ├── NotFoundError        no such deployment, endpoint or path               -> 404
 ├── ConflictError        the state of an execution does not allow it       -> 409
 ├── RefusedError         a rule of the server: its hosts, keys and limits   -> 400, 401, 408, 413, 431
 ├── InvalidMessagesError a client's messages, which the toolkit cannot read -> 400
 └── OpenAIError          any of these, to a client of OpenAI's API          -> OpenAI's error object
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType
from typing import Any, NamedTuple

_OUR_FILES = (os.path.dirname(__file__) + os.sep, os.path.dirname(importlib.__file__) + os.sep, "<frozen importlib")
_MAX_CHARACTERS = 10_000  # of an error's text


def safe_str(value: object) -> str:
    """Return ``str(value)``, whatever a user's ``__str__`` does."""
    try:
        return sendable(str(value))
    # The class may be the user's: it may raise anything.
    except BaseException as failed:
        return f"({type(value).__name__}.__str__ raised {type(failed).__name__})"


def type_and_message(error: BaseException) -> str:
    """Return *error* as the last line of a traceback has it; the type alone if it has no message."""
    return f"{type(error).__name__}: {safe_str(error)}".removesuffix(": ")


def sendable(text: str) -> str:
    """Return *text* fit for JSON: lone surrogates escaped, length limited."""
    if len(text) > _MAX_CHARACTERS:
        half, omitted = _MAX_CHARACTERS // 2, len(text) - _MAX_CHARACTERS
        text = f"{text[:half]} [... {omitted:,} characters ...] {text[-half:]}"
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(text: str, longest: int = 100) -> str:
    """Return *text*, or its beginning and how much of it is missing."""
    return text if len(text) <= longest else f"{text[:longest]}...({len(text) - longest:,} more)"


def closest(name: Any, names: Iterable[str]) -> str:
    """Return the most similar of *names*, or "" if none is similar."""
    return next(iter(get_close_matches(str(name), list(names), n=1, cutoff=0.7)), "")


def path_text(steps: Iterable[Any]) -> str:
    """Return keys and indexes as they are written after a name: ``.sources[0]['a b']``."""
    return "".join(f".{step}" if isinstance(step, str) and step.isidentifier() else f"[{step!r}]" for step in steps)


def fold(error: BaseException, *, keeps_ours: bool = True) -> None:
    """Drop the frames of hayhooks, and of imports, from the tracebacks of *error* and of its causes.

    A traceback of such frames alone stays if *keeps_ours*: it shows a bug of ours.
    """
    found = [error]
    for each in found:  # it grows
        frames = [
            frame
            for frame in each_frame(each.__traceback__)
            if not frame.tb_frame.f_code.co_filename.startswith(_OUR_FILES)
        ]
        each.__traceback__ = traceback_of(frames) or (each.__traceback__ if keeps_ours else None)
        causes = [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
        found += [cause for cause in causes if cause is not None and all(cause is not known for known in found)]


def each_frame(traceback: TracebackType | None) -> Iterator[TracebackType]:
    """Yield the frames of *traceback*, the outermost first."""
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def traceback_of(frames: Sequence[TracebackType]) -> TracebackType | None:
    """Return a traceback of *frames*, the outermost first."""
    traceback: TracebackType | None = None
    for each in reversed(frames):
        traceback = TracebackType(traceback, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return traceback


class HayhooksError(Exception):
    """The base class; ``str()`` is a message for the user."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's code an error is."""

    file: str  # absolute path
    line: int  # from 1
    source: str  # that line, stripped; "" when it cannot be read

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.source}".removesuffix(": ")

    @property
    def short(self) -> str:
        """The file's name and the line, within a sentence."""
        return f"{self.file.rpartition('/')[2]}:{self.line}"


class StreamCall(NamedTuple):
    """Where the user's code has asked for a stream of a pipeline, and the names of the run arguments.

    It is an error's attribute ``__hayhooks_call__``: the stream is read elsewhere, so no frame of theirs is in the
    traceback.
    """

    file: str
    line: int
    given: tuple[str, ...]


class StartError(HayhooksError):
    """A setting or an application's argument prevents the start; one line says why."""


class LoadError(HayhooksError):
    """A revision cannot be loaded."""

    def __init__(self, reason: str, *, traceback: str = "", place: Place | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason  # and what to do about it, in one line where possible
        self.traceback = traceback  # as Python prints it, from the user's first frame on; "" if no code ran
        self.place = place  # the innermost frame in the deployment's own files
        self.hint = hint  # a command or an edit that would fix it


class InvalidInputError(HayhooksError):
    """Invalid arguments of a request; *details* are pydantic's of the first of *count* errors, located below "body"."""

    def __init__(self, details: Sequence[Any], count: int) -> None:
        super().__init__(f"{count} invalid argument(s)")
        self.details = list(details)
        self.count = count

    def told(self) -> str:
        """Return the first error in one line, as ``question: Field required (and 2 more)``."""
        place, message = path_text(self.details[0]["loc"][1:]), self.details[0]["msg"]
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        return f"{place.removeprefix('.')}: {message}{more}".removeprefix(": ")


class PipelineError(HayhooksError):
    """The user's code raised while it served a request, ``__cause__`` is its error; or its result is of no use."""

    def __init__(self, message: str, *, traceback: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback
        self.place = place  # of the method whose result is of no use


class UnavailableError(HayhooksError):
    """A deployment cannot serve now: it failed to load, is being loaded, is full, or gets no thread."""


class DisconnectedError(Exception):
    """The client left before the response was complete; its work was cancelled."""


class ExpiredError(Exception):
    """The server cancelled a request whose time was over."""


class DrainedError(ExpiredError):
    """The deployment was replaced or removed, and the drain timeout is over."""

    def __init__(self) -> None:
        super().__init__("the pipeline was replaced or removed, and its drain time is over (HAYHOOKS_DRAIN_TIMEOUT)")


class TimedOutError(ExpiredError):
    """The request took longer than its deployment allows."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the pipeline exceeded the request timeout of {limit_s:g} s")


class NotFoundError(HayhooksError):
    """There is no such deployment, endpoint or path."""


class ConflictError(HayhooksError):
    """An execution is in no state to do this, or its key belongs to another one."""


class RefusedError(HayhooksError):
    """A rule of the server forbids the request; the message names the setting."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code  # OpenAI's; with one, the response is OpenAI's error object on every path
        self.headers = headers


class InvalidMessagesError(HayhooksError, ValueError):
    """The toolkit cannot read the client's messages, input items, or another *field* of its request."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class OpenAIError(HayhooksError):
    """Sent as OpenAI's error object, see platform.openai.com/docs/guides/error-codes."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry: bool = True,  # False adds x-should-retry: an SDK would repeat a 5xx twice
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.param = param
        self.code = code
        self.retry = retry

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object, with the message as ``detail`` for other clients."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error, "detail": str(self)}
