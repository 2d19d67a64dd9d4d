"""Setting types: how the values of settings are parsed and checked."""

import json
import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

_KEY = re.compile(r"[!-~]+")
_KEY_NAME = re.compile(r"[A-Za-z0-9._@-]{1,100}")
_RATE = re.compile(r"([1-9][0-9]{0,8})/(second|minute|hour|day)")
_RATE_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
_HOST = re.compile(r"(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")  # a name, *.name for its subdomains, or an IPv6 address


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, and what a request that carries it may do."""

    key: str = field(repr=False)
    name: str = ""  # who uses it, for logs, metrics and the audit; several keys may have one name
    calls: tuple[str, ...] = ("*",)  # patterns of the pipelines that it may call
    reads: bool = True  # it may read what the server tells of itself: status, metrics, API pages, events
    rate: tuple[int, int] | None = None  # at most so many requests in so many seconds

    def may_call(self, name: str) -> bool:
        """Whether a request may call the pipeline *name*."""
        return any(fnmatchcase(name, pattern) for pattern in self.calls)

    @property
    def scopes(self) -> str:
        """The scopes, as they are written in a key file."""
        call = "call" if "*" in self.calls else f"call={','.join(self.calls)}" if self.calls else ""
        return " ".join(filter(None, (call, "read" * self.reads)))


def read_keys(file: Path) -> list[ApiKey]:
    """Read API keys, ``KEY`` or ``NAME:KEY[:SCOPES]`` a line, and # comments; raise OSError or ValueError."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(file.read_text("utf-8-sig").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            key = _parse_key(text)
            _check_keys([key.key])
            if keys.setdefault(key.key, key) != key:
                raise ValueError("an earlier line has the same key, with another name or other scopes")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not keys:
        raise ValueError("it holds no key")
    return list(keys.values())


def _parse_key(text: str) -> ApiKey:
    if ":" not in text:
        return ApiKey(text)
    name, key, *rest = text.split(":", 2)
    if not _KEY_NAME.fullmatch(name):
        raise ValueError("the name before the key must consist of up to 100 letters, digits, '.', '_', '@' and '-'")
    scopes = rest[0].split() if rest else []
    calls: tuple[str, ...] = ()
    reads, rate = False, None
    for scope in scopes:
        kind, has_value, value = scope.partition("=")
        if kind == "call" and all(patterns := value.split(",") if has_value else ["*"]):
            calls += tuple(patterns)
        elif scope == "read":
            reads = True
        elif kind == "rate" and (match := _RATE.fullmatch(value)):
            rate = int(match[1]), _RATE_SECONDS[match[2]]
        else:
            accepted = "call, call=NAME,OTHER*, read, rate=NUMBER/second (or /minute, /hour, /day)"
            # What stands there is not repeated: it may be a part of a key that has colons.
            raise ValueError(f"what follows the second ':' must be scopes, with spaces between them: {accepted}")
    if not calls and not reads:
        calls, reads = ("*",), True
    return ApiKey(key, name, calls, reads, rate)


def _check_keys(keys: list[Any]) -> None:
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
        raise ValueError("a key must consist of visible ASCII characters, without spaces")


def _split(value: Any) -> Any:
    """Parse a list given as JSON or separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("[", "{")):
        return json.loads(value)  # pydantic rejects an object
    return [part.strip() for part in value.split(",") if part.strip()]


def _parse_keys(value: Any) -> Any:
    keys = _split(value)
    if isinstance(value, str) and not keys and value.strip() != "[]":
        # An empty variable is more likely a mistake than a wish to open the server.
        raise ValueError("it is empty: set a key, or unset the variable to allow every request")
    if isinstance(keys, list):
        _check_keys(keys)
    return keys


def _check_hosts(hosts: list[str]) -> list[str]:
    if not hosts:
        raise ValueError("it is empty: name at least one host, or * for any")
    for host in hosts:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} must be a name without port, such as www.example.com, *.example.com or *")
    return hosts


def _check_regex(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(str(error)) from None
    return value


def parse_share(value: Any) -> float:
    """Return a share from 0 to 1, written so or as a percentage; raise ValueError."""
    text = str(value).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if isinstance(value, bool) or not 0 <= share <= 1:
        raise ValueError("from 0 to 1, or a percentage such as 10%")
    return share


def share_text(share: float) -> str:
    """Return *share* as a percentage, for people."""
    return f"{share * 100:.3g}%"


def _check_slowdown(times: float) -> float:
    if times and not 1 <= times < math.inf:
        raise ValueError("not a number of times")
    return times


def _check_root_path(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("it does not begin with a slash")
    return value.rstrip("/")


_EmptyAsNone = BeforeValidator(lambda value: None if value == "" else value)
_Level = Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]

LOG_LEVELS: tuple[str, ...] = get_args(_Level)

TextList = Annotated[list[str], NoDecode, BeforeValidator(_split)]
HostList = Annotated[TextList, AfterValidator(_check_hosts)]
KeyList = Annotated[list[str], NoDecode, BeforeValidator(_parse_keys)]
Durable = Annotated[
    Literal["auto", "true", "false"],
    BeforeValidator(lambda v: {"1": "true", "0": "false"}.get(str(v), str(v).lower())),  # as booleans are written
]
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(lambda v: v.lower() if isinstance(v, str) else v)]
LogLevel = Annotated[_Level, BeforeValidator(lambda v: v.upper() if isinstance(v, str) else v)]
OptionalPath = Annotated[Path | None, _EmptyAsNone]
OptionalText = Annotated[str | None, _EmptyAsNone]
Pattern = Annotated[str | None, _EmptyAsNone, AfterValidator(_check_regex)]
Slowdown = Annotated[float, AfterValidator(_check_slowdown)]
Share = Annotated[float, BeforeValidator(parse_share)]
RootPath = Annotated[str, AfterValidator(_check_root_path)]
