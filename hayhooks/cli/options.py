"""Options that several commands have, and the settings they make."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hayhooks.settings import Settings

Command = Callable[..., Any]


def server_options(command: Command) -> Command:
    """Add the options for the server's address."""
    command = click.option("--port", type=int, help="Port (default: 1416).")(command)
    return click.option("--host", help="Address (default: 127.0.0.1).")(command)


def directory_option(command: Command) -> Command:
    """Add the option for the pipelines directory."""
    return click.option(
        "--pipelines-dir", type=click.Path(path_type=Path), help="The pipelines directory (default: pipelines)."
    )(command)


def directory_and_server_options(command: Command) -> Command:
    """Add the options for the pipelines directory and the server's address."""
    return directory_option(server_options(command))


def settings_of(options: dict[str, Any]) -> "Settings":
    """Return the settings, overridden by *options*; exit with status 2 on errors."""
    from pydantic import ValidationError  # noqa: PLC0415 - --help must stay fast

    from hayhooks.settings import ENV_FILE, Settings, problems  # noqa: PLC0415 - --help must stay fast

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise click.UsageError("\n".join(problems(error))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"Cannot read {ENV_FILE} as UTF-8 text: {error}") from None
