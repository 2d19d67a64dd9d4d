"""Options that several commands have, and the settings they make."""

import os
import shlex
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hayhooks.cli.output import CommandError

if TYPE_CHECKING:
    from hayhooks.settings import Settings

_MAX_FILENAME_BYTES = 255  # of every file system that Linux and macOS have

Command = Callable[..., Any]


class AddressCommand(click.Command):
    """A command that answers ``-h ADDRESS``, the original's form of ``--host ADDRESS``, with an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse *args*, or raise ``UsageError``."""
        has_address = any(parameter.name == "host" for parameter in self.params)
        own = args[: args.index("--")] if "--" in args else args
        for argument, following in zip_longest(own, own[1:], fillvalue=""):
            if has_address and argument.startswith("-h"):
                value = following if argument == "-h" else argument.removeprefix("-h").removeprefix("=")
                if value and not value.startswith("-"):
                    message = f"-h shows the help and takes no value: for the address write --host {value}"
                    raise click.UsageError(message, ctx)
        return super().parse_args(ctx, args)


class Text(click.ParamType[str]):
    """Text that can be sent: other bytes than those of UTF-8 are an error."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return *value*, or raise ``BadParameter``."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return value


def server_options(command: Command, *, port: Sequence[str] = ("--port",)) -> Command:
    """Add the options for the server's address, and for the environment file."""
    command = click.option(
        "--env-file", type=click.Path(exists=True, dir_okay=False), help="Read variables from this file, not from .env."
    )(command)
    command = click.option(*port, type=int, help="Port (default: 1416).")(command)
    return click.option("--host", help="Address (default: 127.0.0.1).")(command)


def directory_option(command: Command, *, names: Sequence[str] = ("--pipelines-dir",)) -> Command:
    """Add the option for the pipelines directory."""
    return click.option(*names, type=click.Path(path_type=Path), help="The pipelines directory (default: pipelines).")(
        command
    )


def python_path_option(command: Command) -> Command:
    """Add the option for the directories of shared modules."""
    return click.option("--additional-python-path", help="Directories of shared modules, separated as in PATH.")(
        command
    )


def directory_and_server_options(command: Command) -> Command:
    """Add the options for the pipelines directory and the server's address."""
    return directory_option(server_options(command))


def advice(command: str, *, with_directory: bool = False) -> str:
    """Return the command line of another *command*, with the address, and the directory, given to this one."""
    context = click.get_current_context()
    names = ("host", "port", "env_file", *(("pipelines_dir",) if with_directory else ()))
    given = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    options = "".join(f" --{name.replace('_', '-')} {shlex.quote(str(context.params[name]))}" for name in given)
    return f"hayhooks {command}{options}"


def refuse_long(name: str, suffix: str = "") -> None:
    """Exit with an error if no folder, or file with *suffix*, can have this *name*."""
    size, limit = len(os.fsencode(name)), _MAX_FILENAME_BYTES - len(suffix)
    if size > limit:
        raise CommandError(f"The name {name[:20]!r}... has {size} bytes: use one of at most {limit}")


def settings_of(options: dict[str, Any]) -> "Settings":
    """Return the settings, overridden by *options*; exit with status 2 on errors.

    ``env_file`` among them is set in the environment, so that all who read settings read this file.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - --help must stay fast

    from hayhooks.env_file import ENV_FILE_VARIABLE, env_file  # noqa: PLC0415 - --help must stay fast
    from hayhooks.setting_fields import problems  # noqa: PLC0415 - as above
    from hayhooks.settings import Settings  # noqa: PLC0415 - as above

    if file := options.pop("env_file", None):
        os.environ[ENV_FILE_VARIABLE] = os.path.abspath(file)
    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise click.UsageError("\n".join(problems(Settings, error))) from None
    except UnicodeDecodeError as error:
        raise click.UsageError(f"Cannot read {env_file()} as UTF-8 text: {error}") from None
    except OSError as error:
        raise click.UsageError(f"Cannot read the environment file {error.filename}: {error.strerror}") from None
