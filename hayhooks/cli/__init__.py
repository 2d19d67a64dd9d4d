"""The command line: thin functions of settings, each imported when it is called.

``hayhooks --help`` costs what click costs; Haystack and Starlette are only imported by what serves.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from hayhooks._version import __version__
from hayhooks.cli.completion import completion
from hayhooks.cli.options import Command, directory, server_options, settings_of
from hayhooks.cli.pipeline import pipeline
from hayhooks.errors import StartError
from hayhooks.server.process import permanent_imports


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hayhooks")
def main() -> None:
    """Serve Haystack pipelines and agents over REST and the OpenAI API.

    The pipelines directory says what is served: a folder with a pipeline_wrapper.py in it is live, and so is a
    NAME.yml; changing it replaces what serves, removing it undeploys it.

    Options can be set in the environment too, or in .env: HAYHOOKS_PORT=8000 for --port 8000.
    """


def _serving(command: Command) -> Command:
    """The options of every command that serves."""
    for option in (
        click.option("--ssl-keyfile", type=click.Path(path_type=Path), help="Its private key."),
        click.option("--ssl-certfile", type=click.Path(path_type=Path), help="Serve TLS with this certificate chain."),
        click.option("--additional-python-path", help="Directories of shared modules, separated as in PATH."),
        click.option("--root-path", help="Path below which a proxy serves us."),
    ):
        command = option(command)
    return server_options(command)


@main.command()
@_serving
@click.option("--workers", type=int, help="Processes that serve; each watches for itself (default: 1).")
@directory
def run(**options: Any) -> None:
    """Serve the pipelines directory until stopped."""
    with permanent_imports():
        from hayhooks.cli.run import run  # noqa: PLC0415 - imports the whole server
    with _told():
        sys.exit(run(settings_of(options)))


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), required=False)
@_serving
def dev(path: Path | None, **options: Any) -> None:
    """Serve while you write, and show what becomes of every save.

    PATH is one wrapper's folder, one pipeline in YAML, or a directory of them (default: the pipelines directory).
    """
    with permanent_imports():
        from hayhooks.cli.dev import dev  # noqa: PLC0415 - imports the whole server
    with _told():
        sys.exit(dev(settings_of(options), path))


@main.command()
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print what the server says as JSON.")
def status(as_json: bool, **options: Any) -> None:
    """Show what the running server serves.

    Exits with 1 if it does not answer, and with 2 if a deployment failed or is stale.
    """
    with permanent_imports():
        from hayhooks.cli.status import status  # noqa: PLC0415 - imports what it works with
    sys.exit(status(settings_of(options), as_json=as_json))


@main.command()
@_serving
@directory
@click.option("--workers", type=int, help="As of run.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def config(as_json: bool, **options: Any) -> None:
    """Show the effective settings and where each comes from.

    Secrets are masked. Exits with 2, and says why, if one is wrong.
    """
    with permanent_imports():
        from hayhooks.cli.config import config  # noqa: PLC0415 - imports what it works with
    sys.exit(config(settings_of(options), {name for name, value in options.items() if value is not None}, as_json))


@contextmanager
def _told() -> Iterator[None]:
    """End the command with status 1, and one line, where the server must not start."""
    try:
        yield
    except StartError as error:
        raise click.ClickException(str(error)) from None


main.add_command(pipeline)
main.add_command(completion)
