"""The command line: thin functions of settings, each imported when it is called.

``hayhooks --help`` costs what click costs; Haystack and Starlette are only imported by what serves.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hayhooks.errors import StartError
from hayhooks.version import __version__

if TYPE_CHECKING:
    from hayhooks.settings import Settings

Command = Callable[..., Any]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hayhooks")
def main() -> None:
    """Serve Haystack pipelines and agents over REST and the OpenAI API.

    The pipelines directory says what is served: a folder with a pipeline_wrapper.py in it is live, and so is a
    NAME.yml; changing it replaces what serves, removing it undeploys it.

    Options can be set in the environment too, or in .env: HAYHOOKS_PORT=8000 for --port 8000.
    """


def _where(command: Command) -> Command:
    """The options that say where the server is."""
    command = click.option("--port", type=int, help="Port (default: 1416).")(command)
    return click.option("--host", help="Address (default: 127.0.0.1).")(command)


def _serving(command: Command) -> Command:
    """The options of every command that serves."""
    for option in (
        click.option("--ssl-keyfile", type=click.Path(path_type=Path), help="Its private key."),
        click.option("--ssl-certfile", type=click.Path(path_type=Path), help="Serve TLS with this certificate chain."),
        click.option("--additional-python-path", help="Directories of shared modules, separated as in PATH."),
        click.option("--root-path", help="Path below which a proxy serves us."),
    ):
        command = option(command)
    return _where(command)


@main.command()
@_serving
@click.option("--workers", type=int, help="Processes that serve; each watches for itself (default: 1).")
@click.option("--pipelines-dir", type=click.Path(path_type=Path), help="The pipelines directory (default: pipelines).")
def run(**options: Any) -> None:
    """Serve the pipelines directory until stopped."""
    from hayhooks.cli.run import run  # noqa: PLC0415 - imports the whole server

    with _told():
        sys.exit(run(_settings(options)))


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), required=False)
@_serving
def dev(path: Path | None, **options: Any) -> None:
    """Serve while you write: every save is live, every error shown where it is.

    PATH is one wrapper's folder, one pipeline in YAML, or a directory of them (default: the pipelines directory).
    """
    from hayhooks.cli.dev import dev  # noqa: PLC0415 - imports the whole server

    with _told():
        sys.exit(dev(_settings(options), path))


@main.command()
@_where
@click.option("--json", "as_json", is_flag=True, help="Print what the server says as JSON.")
def status(as_json: bool, **options: Any) -> None:
    """Show what the running server serves.

    Exits with 1 if it does not answer, and with 2 if a deployment failed or is stale.
    """
    from hayhooks.cli.status import status  # noqa: PLC0415 - imports rich

    sys.exit(status(_settings(options), as_json=as_json))


@main.command()
@_serving
@click.option("--workers", type=int, help="As of run.")
@click.option("--pipelines-dir", type=click.Path(path_type=Path), help="As of run.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def config(as_json: bool, **options: Any) -> None:
    """Show the effective settings and where each comes from; secrets are masked.

    Exits with 2, and says why, if one is wrong.
    """
    from hayhooks.cli.config import config  # noqa: PLC0415 - imports rich

    sys.exit(config(_settings(options), {name for name, value in options.items() if value is not None}, as_json))


@contextmanager
def _told() -> Iterator[None]:
    """End the command with status 1, and one line, where the server must not start."""
    try:
        yield
    except StartError as error:
        raise click.ClickException(str(error)) from None


def _settings(options: dict[str, Any]) -> "Settings":
    """The settings with the given command line *options* on top; a wrong one ends the command with status 2."""
    from pydantic import ValidationError  # noqa: PLC0415 - --help must not pay for it

    from hayhooks.settings import ENV_FILE, Settings, problems  # noqa: PLC0415 - as above

    try:
        return Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        raise click.UsageError("\n".join(problems(error))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{ENV_FILE} cannot be read as UTF-8 text: {error}") from None
