"""Every error that hayhooks raises on purpose.

DisconnectedError         nobody is left to answer                           -> nothing is sent
ExpiredError              the server cancelled it; a stream that has begun   -> ends with the error
 ├── DrainedError         a request outlived its replaced deployment         -> 503
 └── TimedOutError        a request took longer than its deployment allows   -> 504
HayhooksError
 ├── StartError           what the server was given cannot be used          -> one line, and no server
 ├── LoadError            a revision that would not load                     -> a failure in /status
 ├── InvalidInputError    a request whose arguments do not fit               -> 422
 ├── PipelineError        the user's code raised while serving a request     -> 500
 ├── UnavailableError     known, but nothing can serve it at the moment      -> 503
 ├── NotFoundError        no deployment of that name                         -> 404
 ├── RefusedError         against a rule of the server: its keys, its limits -> 400, 401, 408, 413, 431
 ├── InvalidMessagesError a client's messages, which the toolkit cannot read -> 400
 └── OpenAIError          any of it, on a path that speaks OpenAI            -> OpenAI's error object
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LONGEST = 10_000  # characters of what an error says


def safe_str(error: BaseException) -> str:
    """What *error* says, whatever its ``__str__`` does; "" if nothing."""
    try:
        return sendable(str(error))
    # It is the user's class: it may raise anything.
    except BaseException as failed:
        return f"({type(error).__name__}.__str__ raised {type(failed).__name__})"


def sendable(text: str) -> str:
    """*text* as UTF-8 can write it, names of files are not always, and no longer than anybody would read."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} [... {len(text) - _LONGEST:,} characters ...] {text[-_LONGEST // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


class HayhooksError(Exception):
    """The base of all of them; ``str()`` is a message for the user."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's code something went wrong."""

    file: str  # absolute path
    line: int  # from 1
    source: str  # that line, stripped; "" when it cannot be read


class StartError(HayhooksError):
    """What the server was given, by settings or in code, cannot be used: it must not start; one line says why."""


class LoadError(HayhooksError):
    """A revision cannot be loaded.

    Attributes:
        reason: what went wrong and what to do, one line where possible.
        traceback: the traceback as Python prints it, from the user's first frame on; "" when no code ran.
        place: the innermost frame in the deployment's own files, if there is one.
        hint: a command or an edit that would mend it, "" when none is known.
    """

    def __init__(self, reason: str, *, traceback: str = "", place: Place | None = None, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.traceback = traceback
        self.place = place
        self.hint = hint


class InvalidInputError(HayhooksError):
    """The arguments of a request do not fit the method; *details* are pydantic's, ``loc`` beginning with "body"."""

    def __init__(self, details: Sequence[Any]) -> None:
        super().__init__(f"{len(details)} invalid argument(s)")
        self.details = list(details)


class PipelineError(HayhooksError):
    """The user's code raised while it served a request; the cause is what it raised."""

    def __init__(self, message: str, *, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


class UnavailableError(HayhooksError):
    """A deployment that exists cannot serve at the moment: it failed to load, or is being loaded."""


class DisconnectedError(Exception):
    """The client went away before it had its answer; what was done for it has been cancelled."""


class ExpiredError(Exception):
    """The server has cancelled a request: its time was over."""


class DrainedError(ExpiredError):
    """The request was cancelled: its deployment was replaced or removed longer ago than drains may take."""

    def __init__(self) -> None:
        super().__init__("the pipeline was replaced or removed, and its drain time is over (HAYHOOKS_DRAIN_TIMEOUT)")


class TimedOutError(ExpiredError):
    """The request was cancelled: it took longer than its deployment allows."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(f"the pipeline exceeded the request timeout of {limit_s:g} s")


class NotFoundError(HayhooksError):
    """There is no deployment of that name."""


class RefusedError(HayhooksError):
    """A rule of the server forbids the request, whoever it is for.

    Args:
        status: of the answer, a 4xx.
        message: what rule, by the name of its setting, and what it allows.
        code: OpenAI's name for it; one that has a name is told in OpenAI's shape on every path.
        headers: of the answer.
    """

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


class InvalidMessagesError(HayhooksError, ValueError):
    """The client's messages, or input items, cannot be read as the wrapper asks the toolkit to read them."""


class OpenAIError(HayhooksError):
    """An error to be told in OpenAI's shape.

    See https://platform.openai.com/docs/guides/error-codes for the types and codes that clients know.
    """

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
        """The JSON body: OpenAI's error object, and the message once more where plain clients look."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error, "detail": str(self)}
