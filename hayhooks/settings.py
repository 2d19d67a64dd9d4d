"""Settings: default < ``.env`` < environment (``HAYHOOKS_*``) < command line."""

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from dotenv.parser import parse_stream
from pydantic import AfterValidator, AliasChoices, BeforeValidator, ByteSize, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hayhooks.current_app import current_app

PREFIX = "HAYHOOKS_"
ENV_FILE = ".env"
MASK = "***"

_LONGEST = 200  # characters of a wrong value that are shown

_KEY = re.compile(r"[!-~]+")
_HOST = re.compile(r"(\*\.)?[^*:/\s]+|\[[0-9a-fA-F:.]+\]")  # a name that may stand for all below it, or an IPv6 address


def _split(value: Any) -> Any:
    """A list given as JSON or separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith(("[", "{")):
        return json.loads(value)  # an object is no list, as is said then
    return [part.strip() for part in value.split(",") if part.strip()]


def _keys(value: Any) -> Any:
    """API keys, but none only where that is said: an empty variable is more likely a mistake that opens the server.

    Raises:
        ValueError: it is empty, or a key cannot be sent in a header as it is.
    """
    keys = _split(value)
    if isinstance(value, str) and not keys and value.strip() != "[]":
        raise ValueError("it is empty: give a key, or unset it to let everybody ask")
    if isinstance(keys, list):
        _check_keys(keys)
    return keys


def _check_keys(keys: list[Any]) -> None:
    if not all(isinstance(key, str) and _KEY.fullmatch(key) for key in keys):
        raise ValueError("a key must be a text of visible ASCII characters, without spaces")


def _check_hosts(hosts: list[str]) -> list[str]:
    if not hosts:
        raise ValueError("it is empty: name at least one host, or * for any")
    for host in hosts:
        if host != "*" and not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} must be a name without port, as www.example.com, *.example.com or *")
    return hosts


def read_keys(file: Path) -> list[str]:
    """The API keys in *file*, a line each; empty lines and those that begin with # are none.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds no key, or one that cannot be sent in a header.
    """
    lines = [line.strip() for line in file.read_text("utf-8-sig").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ValueError("it holds no key")
    _check_keys(keys)
    return keys


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _none(value: Any) -> Any:
    """An optional value that was left empty counts as not set."""
    return None if value == "" else value


def _regex(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(str(error)) from None
    return value


def _root(value: str) -> str:
    if value and not value.startswith("/"):
        raise ValueError("it begins with no slash")
    return value.rstrip("/")  # ours begin with one


Given = BeforeValidator(_none)
Texts = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Level = Literal["TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"]


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*(PREFIX + name for name in names))


class Settings(BaseSettings):
    """What can be set; ``Settings(port=8000)`` overrides environment and ``.env``.

    Raises:
        pydantic.ValidationError: a value does not fit.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        extra="ignore",
        populate_by_name=True,
        validate_default=False,
        hide_input_in_errors=True,  # a traceback must not tell a key; `problems` masks it
    )

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for all.")
    port: int = Field(1416, ge=0, le=65535, description="Port to listen on; `0` for any free one.")
    pipelines_dir: Path = Field(Path("pipelines"), description="The pipelines directory.")
    root_path: Annotated[str, AfterValidator(_root)] = Field(
        "", description="Path below which a proxy serves us, as `/hayhooks`."
    )
    additional_python_path: str = Field(
        "",
        validation_alias=_names("ADDITIONAL_PYTHON_PATH", "ADDITIONAL_PYTHONPATH"),
        description="Directories to import shared modules from, separated as in `PATH`. "
        "`HAYHOOKS_ADDITIONAL_PYTHONPATH` is the same.",
    )
    workers: int = Field(1, ge=1, description="Processes that serve; each watches for itself.")
    threads: int = Field(200, ge=1, description="Sync calls of one deployment that run at the same time.")
    graceful_shutdown_timeout: int = Field(30, ge=0, description="Seconds that open requests get when stopping.")
    drain_timeout: int = Field(
        600, ge=0, description="Seconds that requests get to end on a revision that was replaced or removed."
    )
    check_timeout: int = Field(30, ge=1, description="Seconds that a wrapper's `check()` may take.")
    request_timeout: int = Field(
        0,
        ge=0,
        description="Seconds that a request may take, to its last byte; `0`: no limit. A wrapper can say its own.",
    )
    concurrency: int = Field(
        0,
        ge=0,
        description="Requests that one deployment works on at the same time; `0`: no limit. A wrapper can say its own.",
    )
    queue: int = Field(
        100, ge=0, description="Requests that wait where `HAYHOOKS_CONCURRENCY` is reached. More of them get a 503."
    )
    max_body_size: ByteSize = Field(
        ByteSize(104857600), description="Bytes of a request's body, as `100MiB`; more gets a 413. `0`: no limit."
    )
    max_upload_size: ByteSize = Field(
        ByteSize(1073741824), description="The same for forms, whose files lie on disk and not in memory."
    )
    max_upload_files: int = Field(1000, ge=1, description="Files in one form.")
    read_timeout: int = Field(
        30, ge=1, description="Seconds in which a request's headers must come, and in which something of its body must."
    )
    api_keys: Annotated[list[str], NoDecode, BeforeValidator(_keys)] = Field(
        [], repr=False, description="Keys of which a request must bring one. None: all may ask."
    )
    api_keys_file: Annotated[Path | None, Given] = Field(
        None, description="A file with such keys, a line each; read again when it changes."
    )
    allowed_hosts: Annotated[Texts, AfterValidator(_check_hosts)] = Field(
        ["*"], description="Names by which the server may be called, as `*.example.com`."
    )
    ssl_certfile: Annotated[Path | None, Given] = Field(None, description="Serve TLS with this certificate chain.")
    ssl_keyfile: Annotated[Path | None, Given] = Field(None, description="Its private key.")
    ssl_keyfile_password: Annotated[str | None, Given] = Field(
        None, repr=False, description="The password of that file."
    )
    fast_protocol: bool = Field(
        True, description="`false`: serve with uvicorn's h11 protocol, also with a uvicorn version that was tested."
    )
    poll_interval_ms: int = Field(
        1000,
        ge=50,
        description="Time between two looks at the directory; more where a look takes long and there are events.",
    )
    watch_events: bool = Field(True, description="`false`: do not ask the file system for events, only look around.")
    debounce_ms: int = Field(20, ge=0, description="How long a folder must keep still before it is loaded.")
    show_tracebacks: bool = Field(False, description="Put the traceback into the answer when a pipeline raises.")
    streaming_components: str = Field(
        "", description="Whose chunks `streaming_generator` yields: `all`, or names. Default: the last that streams."
    )
    log: Annotated[Level, BeforeValidator(_upper)] = Field(
        "INFO", validation_alias=_names("LOG", "LOG_LEVEL"), description="Log level. `HAYHOOKS_LOG_LEVEL` is the same."
    )
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = Field(
        "text", description="`text` or `json`, an object a line."
    )
    access_log: bool = Field(True, description="Whether to log a line for each request.")
    metrics: bool = Field(True, description="Whether to serve `/metrics`.")
    use_https: bool = Field(
        False,
        description="Commands ask by https. Where HAYHOOKS_SSL_CERTFILE is set they do, and trust that.",
    )
    disable_ssl: bool = Field(False, description="Commands do not verify the server's certificate.")
    cors_allow_origins: Texts = Field(["*"], description="Origins that browsers may call from.")
    cors_allow_origin_regex: Annotated[str | None, Given, AfterValidator(_regex)] = Field(
        None, description="The same as a regular expression."
    )
    cors_allow_methods: Texts = Field(["*"], description="Methods that browsers may use.")
    cors_allow_headers: Texts = Field(["*"], description="Headers that browsers may send.")
    cors_allow_credentials: bool = Field(False, description="Whether browsers may send cookies.")
    cors_expose_headers: Texts = Field([], description="Headers that browsers may read.")
    cors_max_age: int = Field(600, ge=0, description="Seconds that browsers may keep the answer to a preflight.")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            error.add_note("\n".join(problems(error)))  # for who has no command line that says it, as uvicorn's factory
            raise

    @property
    def python_path(self) -> list[str]:
        """The additional directories to import from, absolute."""
        return [os.path.abspath(part) for part in self.additional_python_path.split(os.pathsep) if part]

    @property
    def has_keys(self) -> bool:
        """Whether a request must bring a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def valid_keys(self) -> list[str]:
        """The API keys, those in the file too; none if everybody may ask.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file holds no key, or one that cannot be sent in a header.
        """
        return [*self.api_keys, *(read_keys(self.api_keys_file) if self.api_keys_file else ())]

    def environment(self) -> dict[str, str]:
        """The environment variables that make another process read these very settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }

    def shown(self) -> dict[str, Any]:
        """Every setting by its name in the environment, as plain values; secrets are masked."""
        values = self.model_dump(mode="json")
        return {_name(field): _masked(field, value) for field, value in values.items()}


def problems(error: ValidationError) -> list[str]:
    """What is wrong with settings, a line each: the name, the value (of secrets a mask) and what is accepted."""
    lines = []
    for detail in error.errors(include_url=False):
        told = str(detail["loc"][0]) if detail["loc"] else ""
        field = next((field for field in Settings.model_fields if told == field or told in _names_of(field)), "")
        if not field:
            lines.append(f"{told}: {detail['msg']}".removeprefix(": "))
            continue
        value = repr(_masked(field, detail["input"]))
        value = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
        why = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
        lines.append(f"{_used_name(field)}={value}: must be {accepted(field)}{why}")
    return lines


def accepted(field: str) -> str:
    """What the setting *field* may be, in words."""
    if field in _SPECIAL:
        return _SPECIAL[field]
    kind = Settings.model_fields[field].annotation
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if kind is not int:
        return next(words for known, words in _KINDS.items() if kind in (known, known | None))
    bounds = {type(item).__name__: item for item in Settings.model_fields[field].metadata}
    lowest = bounds["Ge"].ge
    return f"an integer from {lowest} to {bounds['Le'].le}" if "Le" in bounds else f"an integer of at least {lowest}"


_SPECIAL = {
    "root_path": "a path that begins with a slash, such as /hayhooks, or empty",
    "cors_allow_origin_regex": "a regular expression",
}
_KINDS: Mapping[Any, str] = {
    bool: "true or false",
    ByteSize: "a size such as 100MiB, or a number of bytes",
    list[str]: 'a list, as JSON (["a", "b"]) or separated by commas (a,b)',
    Path: "a path",
    str: "a text",
}


def sources(options: Collection[str] = ()) -> dict[str, str]:
    """Where each setting comes from, by field: ``default``, ``.env``, ``environment``, or ``command line``: *options*.

    Raises:
        OSError, UnicodeDecodeError: ``.env`` cannot be read.
    """
    environment, file = _upper_names(os.environ), _upper_names(_env_file())

    def source(field: str) -> str:
        names = _names_of(field)
        if field in options:
            return "command line"
        return "environment" if environment & names else ENV_FILE if file & names else "default"

    return {field: source(field) for field in Settings.model_fields}


def unknown() -> list[str]:
    """A line for each name in the environment and in ``.env`` that looks like a setting and is none.

    Raises:
        OSError, UnicodeDecodeError: ``.env`` cannot be read.
    """
    known = {name for field in Settings.model_fields for name in _names_of(field)}
    return [
        f"{name} in {where} is no setting{_nearest(name, known)}"
        for where, names in (("the environment", os.environ), (ENV_FILE, _env_file()))
        for name in sorted(_upper_names(names))
        if name.startswith(PREFIX) and name not in known
    ]


def _nearest(name: str, known: Collection[str]) -> str:
    # What all have in common says nothing about which is meant.
    close = get_close_matches(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known], n=1)
    return f"; did you mean {PREFIX}{close[0]}?" if close else "; `hayhooks config` lists them"


def _env_file() -> set[str]:
    """The names that are set in ``.env``."""
    if not Path(ENV_FILE).is_file():
        return set()
    with open(ENV_FILE, encoding="utf-8") as file:
        return {binding.key for binding in parse_stream(file) if binding.key}


def _upper_names(names: Iterable[str]) -> set[str]:
    return {name.upper() for name in names}


def _name(field: str) -> str:
    return PREFIX + field.upper()


def _names_of(field: str) -> set[str]:
    """The names of *field* in the environment."""
    alias = Settings.model_fields[field].validation_alias
    return {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else {_name(field)}


def _used_name(field: str) -> str:
    """Of the names of *field* the one that is set, if it has several."""
    names = _names_of(field)
    used = names & _upper_names(os.environ) or names & _upper_names(_env_file())
    return min(used or {_name(field)})


def _masked(field: str, value: Any) -> Any:
    if Settings.model_fields[field].repr or not value:
        return value
    return [MASK] * len(value) if isinstance(value, list) else MASK


def __getattr__(name: str) -> Any:
    """``settings``: those of the application that runs, else of the environment and ``.env``; asked for when used."""
    if name != "settings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = current_app()
    return Settings() if app is None else app.settings
