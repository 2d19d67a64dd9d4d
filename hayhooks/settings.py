"""Settings: default < ``.env`` < environment (``HAYHOOKS_*``) < command line."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hayhooks.running import newest

PREFIX = "HAYHOOKS_"


def _split(value: Any) -> Any:
    """A list given as JSON or separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


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
        env_prefix=PREFIX, env_file=".env", extra="ignore", populate_by_name=True, validate_default=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on; `0.0.0.0` for all.")
    port: int = Field(1416, ge=0, le=65535, description="Port to listen on; `0` for any free one.")
    pipelines_dir: Path = Field(Path("pipelines"), description="The pipelines directory.")
    root_path: str = Field("", description="Path below which a proxy serves us, as `/hayhooks`.")
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
    look_around_ms: int = Field(1000, ge=50, description="Longest time between two looks at the directory.")
    watch_events: bool = Field(True, description="`false`: do not ask the file system for events, only look around.")
    settle_ms: int = Field(20, ge=0, description="How long a folder must keep still before it is loaded.")
    show_tracebacks: bool = Field(False, description="Put the traceback into the answer when a pipeline raises.")
    streaming_components: str = Field(
        "", description="Whose chunks `streaming_generator` yields: `all`, or names. Default: the last that streams."
    )
    log: Annotated[Level, BeforeValidator(_upper)] = Field(
        "INFO", validation_alias=_names("LOG", "LOG_LEVEL"), description="Log level. `HAYHOOKS_LOG_LEVEL` is the same."
    )
    use_https: bool = Field(False, description="`hayhooks status` asks by https.")
    disable_ssl: bool = Field(False, description="`hayhooks status` does not verify certificates.")
    cors_allow_origins: Texts = Field(["*"], description="Origins that browsers may call from.")
    cors_allow_origin_regex: str | None = Field(None, description="The same as a regular expression.")
    cors_allow_methods: Texts = Field(["*"], description="Methods that browsers may use.")
    cors_allow_headers: Texts = Field(["*"], description="Headers that browsers may send.")
    cors_allow_credentials: bool = Field(False, description="Whether browsers may send cookies.")
    cors_expose_headers: Texts = Field([], description="Headers that browsers may read.")
    cors_max_age: int = Field(600, ge=0, description="Seconds that browsers may keep the answer to a preflight.")

    @property
    def python_path(self) -> list[str]:
        """The additional directories to import from, absolute."""
        return [os.path.abspath(part) for part in self.additional_python_path.split(os.pathsep) if part]

    def environment(self) -> dict[str, str]:
        """The environment variables that make another process read these very settings."""
        values = self.model_dump(mode="json", exclude_none=True)
        return {
            PREFIX + name.upper(): value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }


def problems(error: ValidationError) -> list[str]:
    """What is wrong with settings, a line each: the name, the value and what is accepted."""
    lines = []
    for detail in error.errors(include_url=False):
        name = str(detail["loc"][0]) if detail["loc"] else ""
        name = name if name.startswith(PREFIX) else PREFIX + name.upper()
        lines.append(f"{name}={detail['input']!r}: {detail['msg']}")
    return lines


def __getattr__(name: str) -> Any:
    """``settings``: those of the application that runs, else of the environment and ``.env``; asked for when used."""
    if name != "settings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = newest()
    return Settings() if app is None else app.settings
