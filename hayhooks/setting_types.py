"""Setting types: how the values of settings are parsed and checked."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

_KEY = re.compile(r"[!-~]+")
_HOST = re.compile(r"(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")  # a name, *.name for its subdomains, or an IPv6 address


def read_keys(file: Path) -> list[str]:
    """Read API keys, one a line, and # comments; raise OSError or ValueError."""
    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError("it holds no key")
    _check_keys(keys)
    return keys


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
LogFormat = Annotated[Literal["text", "json"], BeforeValidator(lambda v: v.lower() if isinstance(v, str) else v)]
LogLevel = Annotated[_Level, BeforeValidator(lambda v: v.upper() if isinstance(v, str) else v)]
OptionalPath = Annotated[Path | None, _EmptyAsNone]
OptionalText = Annotated[str | None, _EmptyAsNone]
Pattern = Annotated[str | None, _EmptyAsNone, AfterValidator(_check_regex)]
RootPath = Annotated[str, AfterValidator(_check_root_path)]
