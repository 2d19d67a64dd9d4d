"""Settings: default < environment file (``.env``) < environment (``HAYHOOKS_*``) < command line."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from hayhooks.current_app import current_app
from hayhooks.env_file import ENCODING, env_file, env_file_values, upper_names
from hayhooks.setting_fields import PREFIX, problems, variable_names
from hayhooks.setting_types import (
    LOG_LEVELS,
    ApiKey,
    Durable,
    HostList,
    KeyList,
    LogFormat,
    LogLevel,
    OptionalPath,
    OptionalText,
    Pattern,
    RootPath,
    Share,
    Slowdown,
    TextList,
    read_keys,
)


def _aliases(*names: str) -> AliasChoices:
    return AliasChoices(*(PREFIX + name for name in names))


class Settings(BaseSettings):
    """All settings; ``Settings(port=8000)`` overrides the environment and the environment file.

    ``_env_file=None`` reads no file, another path that one in place of ``env_file()``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file_encoding=ENCODING,
        extra="ignore",
        populate_by_name=True,
        validate_default=False,
        hide_input_in_errors=True,  # a traceback must not show a key; `problems` masks it
    )

    host: str = Field("127.0.0.1", description="Address to listen on. `0.0.0.0` listens on all.")
    port: int = Field(1416, ge=0, le=65535, description="Port to listen on. `0` takes any free port.")
    pipelines_dir: Path = Field(Path("pipelines"), description="The pipelines directory.")
    root_path: RootPath = Field("", description="Path prefix under which a proxy serves hayhooks, such as `/hayhooks`.")
    additional_python_path: str = Field(
        "",
        validation_alias=_aliases("ADDITIONAL_PYTHON_PATH", "ADDITIONAL_PYTHONPATH"),
        description="Directories of shared modules, separated as in `PATH`. "
        "`HAYHOOKS_ADDITIONAL_PYTHONPATH` means the same.",
    )
    state_dir: str = Field(
        "auto",
        description="Directory for the last revisions that served. "
        "`auto`: one in the user's state directory, for each pipelines directory. Empty: nothing is kept.",
    )
    revisions_kept: int = Field(
        5, ge=1, description="Number of revisions of each pipeline that are kept in the state directory."
    )
    restore: bool = Field(
        True,
        description="Where a pipeline does not load at the start, serve its last good revision "
        "from the state directory.",
    )
    workers: int = Field(1, ge=1, description="Server processes. Each watches the directory for itself.")
    threads: int = Field(
        200,
        ge=1,
        description="Maximum number of threads for sync methods of one deployment, and again for what its code hands "
        "to `asyncio.to_thread`, `run_in_executor` or anyio.",
    )
    graceful_shutdown_timeout: int = Field(
        30, ge=0, description="Seconds that in-flight requests get when the server stops."
    )
    drain_timeout: int = Field(
        600, ge=0, description="Seconds that in-flight requests get on a revision that was replaced or removed."
    )
    trial_seconds: int = Field(
        30,
        ge=0,
        description="Seconds for which a replaced revision stays loaded, and serves again if requests of the new one "
        "fail. `0`: it goes at once, as with `hayhooks dev`. A wrapper can set its own.",
    )
    trial_requests: int = Field(
        5, ge=1, description="Requests that a new revision must have answered before it may be rolled back."
    )
    trial_error_rate: Share = Field(
        0.5,
        description="Share of a new revision's requests; it is rolled back if more of them fail, "
        "and fewer of the replaced one did.",
    )
    canary: Share = Field(
        0.0,
        description="Share of the requests, such as `0.1` or `10%`, that a new revision gets at first, beside the one "
        "that it replaces. `0`: all at once. A wrapper can set its own.",
    )
    canary_requests: int = Field(
        100, ge=1, description="Requests that a canary answers before it gets all of them, or is rolled back."
    )
    canary_seconds: int = Field(
        600,
        ge=0,
        description="Seconds after which a canary gets all requests or is rolled back, however few it has answered. "
        "`0`: there are no canaries, as with `hayhooks dev`.",
    )
    canary_error_rate: Share = Field(
        0.05,
        description="Share of a canary's requests; it is rolled back if more of them fail, and fewer beside it did.",
    )
    canary_slowdown: Slowdown = Field(
        1.5,
        description="A canary is rolled back if 95 % of its requests take so many times as long as those beside it. "
        "`0`: how long they take does not count.",
    )
    durable: Durable = Field(
        "auto",
        validation_alias=_aliases("DURABLE", "DURABLE_MODE"),
        description="Executions that outlive their request: `auto` (once a wrapper has `run_durable`), `true` or "
        "`false`. They need the extra `durable`.",
    )
    durable_url: str = Field(
        "",
        repr=False,  # it may have a password
        description="Database of the executions, `sqlite:///PATH` or `postgresql://...`. "
        "Empty: a SQLite file in the state directory.",
    )
    durable_concurrency: int = Field(
        1,
        ge=1,
        validation_alias=_aliases("DURABLE_CONCURRENCY", "DURABLE_WORKER_CONCURRENCY"),
        description="Executions of one deployment that run at a time in one process. A wrapper can set its own.",
    )
    durable_poll_ms: int = Field(
        200, ge=10, description="Milliseconds between two looks for executions that may begin."
    )
    durable_alive_ms: int = Field(
        1000, ge=50, description="Milliseconds between two looks for processes that have died while they worked."
    )
    durable_timeout: int = Field(
        0,
        ge=0,
        description="Maximum duration of one attempt of an execution in seconds. `0`: no limit. "
        "A wrapper can set its own.",
    )
    durable_max_attempts: int = Field(
        3,
        ge=1,
        validation_alias=_aliases("DURABLE_MAX_ATTEMPTS", "DURABLE_MAX_RUN_ATTEMPTS"),
        description="Attempts that may end with the death of their process before an execution fails.",
    )
    durable_max_retries: int = Field(
        2,
        ge=0,
        validation_alias=_aliases("DURABLE_MAX_RETRIES", "DURABLE_MAX_APPLICATION_RETRIES"),
        description="Times that an execution may ask for a retry before it fails.",
    )
    durable_max_unfinished: int = Field(
        1000,
        ge=0,
        validation_alias=_aliases("DURABLE_MAX_UNFINISHED", "DURABLE_MAX_NONTERMINAL_EXECUTIONS"),
        description="Unfinished executions; further ones get a 503. `0`: no limit.",
    )
    durable_max_payload: ByteSize = Field(
        ByteSize(1_000_000),
        validation_alias=_aliases("DURABLE_MAX_PAYLOAD", "DURABLE_MAX_PAYLOAD_BYTES"),
        description="Maximum size of what is stored at a time: an input, a result, a state, a step's value.",
    )
    durable_keep: int = Field(
        604800,
        ge=0,
        validation_alias=_aliases("DURABLE_KEEP", "DURABLE_TERMINAL_TTL_SECONDS"),
        description="Seconds for which an execution that has ended is kept. `0`: for ever.",
    )
    durable_grace: int = Field(
        5,
        ge=0,
        validation_alias=_aliases("DURABLE_GRACE", "DURABLE_SHUTDOWN_GRACE_SECONDS"),
        description="Seconds that running attempts get when the server stops, before they are handed to others.",
    )
    check_timeout: int = Field(30, ge=1, description="Maximum duration of a wrapper's `check()` in seconds.")
    request_timeout: int = Field(
        0,
        ge=0,
        description="Maximum duration of a request in seconds, to its last byte. `0`: no limit. "
        "A wrapper can set its own.",
    )
    concurrency: int = Field(
        0,
        ge=0,
        description="Maximum number of requests that one deployment runs at a time. `0`: no limit. "
        "A wrapper can set its own.",
    )
    queue_size: int = Field(
        100,
        ge=0,
        description="Maximum number of requests that wait once `HAYHOOKS_CONCURRENCY` is reached. Others get a 503.",
    )
    max_body_size: ByteSize = Field(
        ByteSize(104857600),
        description="Maximum size of a request body, such as `100MiB`. Larger ones get a 413. `0`: no limit.",
    )
    max_json_values: int = Field(
        2_000_000,
        ge=0,
        description="Maximum number of values in a JSON body; an array, an object or a key counts as 10. "
        "Larger ones get a 413. `0`: no limit.",
    )
    max_upload_size: ByteSize = Field(
        ByteSize(1073741824), description="Maximum size of a multipart form, whose files are kept on disk."
    )
    max_upload_files: int = Field(1000, ge=1, description="Maximum number of files in one form.")
    read_timeout: int = Field(
        30, ge=1, description="Seconds to wait for a request's headers, and for more data of its body."
    )
    write_timeout: int = Field(
        30, ge=1, description="Seconds after which a client that takes no more data of its response is disconnected."
    )
    api_keys: KeyList = Field(
        [], repr=False, description="API keys; each request must carry one. An empty list allows every request."
    )
    api_keys_file: OptionalPath = Field(
        None,
        description="File with API keys, one a line: `KEY`, or `NAME:KEY:SCOPES`. It is read again when it changes.",
    )
    allowed_hosts: HostList = Field(["*"], description="Accepted values of the `Host` header, such as `*.example.com`.")
    ssl_certfile: OptionalPath = Field(None, description="Certificate chain (PEM). Setting it turns TLS on.")
    ssl_keyfile: OptionalPath = Field(
        None, description="Private key of the certificate (PEM), if it is in a file of its own."
    )
    ssl_keyfile_password: OptionalText = Field(None, repr=False, description="Password of the private key.")
    fast_protocol: bool = Field(
        True,
        description="Use the fast HTTP protocol with uvicorn versions that it is tested with. "
        "`false`: always use uvicorn's h11 protocol.",
    )
    poll_interval_ms: int = Field(
        1000,
        ge=50,
        description="Milliseconds between two full scans of the directory. "
        "Slow scans run less often while file system events work.",
    )
    watch_events: bool = Field(True, description="Use file system events. `false`: only poll.")
    debounce_ms: int = Field(
        20, ge=0, description="Milliseconds for which a folder must be unchanged before it is loaded."
    )
    loads_at_a_time: int = Field(
        0,
        ge=0,
        description="Pipelines that one process loads at a time. One that takes longer than 60 seconds no longer "
        "counts, which is logged. `0`: four, and one that takes longer than a second no longer counts.",
    )
    load_jitter_ms: int = Field(
        0,
        ge=0,
        description="Maximum time in milliseconds that a new revision waits before it is loaded. Each process takes a "
        "random time, so that many do not call a model provider at once; at the start too. Not with `hayhooks dev`.",
    )
    removal_grace_ms: int = Field(
        400, ge=0, description="Milliseconds for which a folder must be absent before it is undeployed."
    )
    show_tracebacks: bool = Field(False, description="Include the traceback in the response when a pipeline raises.")
    streaming_components: str = Field(
        "",
        description="Components whose chunks `streaming_generator` yields: `all`, or names. "
        "Default: the last one that streams.",
    )
    log: LogLevel = Field(
        "INFO",
        validation_alias=_aliases("LOG", "LOG_LEVEL"),
        description="Log level. `HAYHOOKS_LOG_LEVEL` means the same.",
    )
    log_format: LogFormat = Field("text", description="Log format: `text`, or `json` for one object a line.")
    access_log: bool = Field(True, description="Log one line for each request.")
    metrics: bool = Field(True, description="Serve `/metrics`.")
    traces: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Number of requests whose traces are kept for `/traces`; `hayhooks dev` keeps 200.",
    )
    console: bool = Field(True, description="Serve the console, a page for browsers, at `/`.")
    use_https: bool = Field(
        False,
        description="CLI commands use HTTPS. Implied by `HAYHOOKS_SSL_CERTFILE`, which they then trust.",
    )
    disable_ssl: bool = Field(False, description="CLI commands do not verify the server's certificate.")
    cors_allow_origins: TextList = Field(["*"], description="Origins that browsers may send requests from.")
    cors_allow_origin_regex: Pattern = Field(None, description="Regular expression for further allowed origins.")
    cors_allow_methods: TextList = Field(["*"], description="Methods that browsers may use.")
    cors_allow_headers: TextList = Field(["*"], description="Request headers that browsers may send.")
    cors_allow_credentials: bool = Field(False, description="Let browsers send cookies.")
    cors_allow_private_network: bool = Field(
        False,
        description="Let public websites call this server in a private network: "
        "answer the preflights of Private Network Access.",
    )
    cors_expose_headers: TextList = Field([], description="Response headers that scripts in browsers may read.")
    cors_max_age: int = Field(600, ge=0, description="Seconds for which browsers may cache a preflight response.")

    def __init__(self, **values: Any) -> None:
        if "_env_file" not in values:
            values["_env_file"] = env_file()
        try:
            super().__init__(**values)
        except ValidationError as error:
            # Shown where no command line reports it: uvicorn's factory.
            error.add_note("\n".join(problems(type(self), error)))
            raise

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from: the first one wins."""
        return init_settings, env_settings, dotenv_settings, _PlainLogLevel(settings_cls, env_settings, dotenv_settings)

    @property
    def python_path(self) -> list[str]:
        """The additional import directories, absolute."""
        return [os.path.abspath(part) for part in self.additional_python_path.split(os.pathsep) if part]

    @property
    def has_keys(self) -> bool:
        """Whether requests need an API key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    def valid_keys(self) -> list[ApiKey]:
        """List all API keys, the most powerful first; raise OSError or ValueError if the file has none."""
        keys = [*map(ApiKey, self.api_keys), *(read_keys(self.api_keys_file) if self.api_keys_file else ())]
        return sorted(keys, key=lambda key: (key.reads + ("*" in key.calls), key.rate is None), reverse=True)

    def environment(self) -> dict[str, str]:
        """Return environment variables that give another process the same settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }


class _PlainLogLevel(PydanticBaseSettingsSource):
    """The log level in ``LOG`` or ``LOG_LEVEL``, if nothing else sets it: the original reads them too."""

    def __init__(self, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._sources = [source for source in sources if isinstance(source, EnvSettingsSource)]

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: ``__call__`` has the one value."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the level, if there is one and it is wanted."""
        levels = (plain_log_level(source.env_vars) for source in self._sources)
        level = next(filter(None, levels), None)
        is_set = bool(self.current_state.keys() & {"log", *variable_names(Settings, "log")})
        return {} if level is None or is_set else {"log": level}


def plain_log_level(variables: Mapping[str, str | None]) -> str | None:
    """Return the log level in ``LOG`` or ``LOG_LEVEL``; another value there is of another program."""
    values = {name.upper(): value for name, value in variables.items()}
    levels = ((values.get(name) or "").upper() for name in ("LOG", "LOG_LEVEL"))
    return next((level for level in levels if level in LOG_LEVELS), None)


def export_env_file() -> None:
    """Put the variables of the environment file into the environment, for wrappers; what is set there stays."""
    present = upper_names(os.environ)
    spellings = [variable_names(Settings, field) for field in Settings.model_fields]
    for name, value in env_file_values().items():
        same = next((names for names in spellings if name.upper() in names), {name.upper()})
        if value is not None and not present & same:
            os.environ[name] = value


def __getattr__(name: str) -> Any:
    """Resolve ``settings``: the running application's, else the environment's."""
    if name == "AppSettings":  # as the original calls it
        return Settings
    if name != "settings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = current_app()
    return Settings() if app is None else app.settings
