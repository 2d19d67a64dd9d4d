"""Options that several commands have, and the settings that come of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hayhooks.settings import Settings

Command = Callable[..., Any]


def server_options(command: Command) -> Command:
    """The options that say where the server is."""
    command = click.option("--port", type=int, help="Port (default: 1416).")(command)
    return click.option("--host", help="Address (default: 127.0.0.1).")(command)


def directory(command: Command) -> Command:
    """The option that says which the pipelines directory is."""
    return click.option(
        "--pipelines-dir", type=click.Path(path_type=Path), help="The pipelines directory (default: pipelines)."
    )(command)


def on_the_directory(command: Command) -> Command:
    """The options of every command that works on the directory and asks the server, if one runs."""
    return directory(server_options(command))


def settings_of(options: dict[str, Any]) -> "Settings":
    """The settings with the given command line *options* on top; a wrong one ends the command with status 2."""
    from pydantic import ValidationError  # noqa: PLC0415 - --help must not pay for it

    from hayhooks.settings import ENV_FILE, Settings, problems  # noqa: PLC0415 - as above

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise click.UsageError("\n".join(problems(error))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{ENV_FILE} cannot be read as UTF-8 text: {error}") from None
