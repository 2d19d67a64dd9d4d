"""The command line: thin functions of settings, each imported when it is called.

``hayhooks --help`` costs what click costs; Haystack and Starlette are only imported by what serves.
"""

import sys
from pathlib import Path
from typing import Any

import click

from hayhooks.cli.completion import completion
from hayhooks.cli.options import Command, directory, settings_of, where
from hayhooks.cli.pipeline import pipeline
from hayhooks.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hayhooks")
def main() -> None:
    """Serve Haystack pipelines and agents over REST and the OpenAI API.

    The pipelines directory says what is served: a folder with a pipeline_wrapper.py in it is live, changing the
    folder replaces it, removing it undeploys it.

    Options can be set in the environment too, or in .env: HAYHOOKS_PORT=8000 for --port 8000.
    """


def _serving(command: Command) -> Command:
    """The options of every command that serves."""
    for option in (
        click.option("--additional-python-path", help="Directories of shared modules, separated as in PATH."),
        click.option("--root-path", help="Path below which a proxy serves us."),
    ):
        command = option(command)
    return where(command)


@main.command()
@_serving
@click.option("--workers", type=int, help="Processes that serve; each watches for itself (default: 1).")
@directory
def run(**options: Any) -> None:
    """Serve the pipelines directory until stopped."""
    from hayhooks.cli.run import run  # noqa: PLC0415 - imports the whole server

    sys.exit(run(settings_of(options)))


@main.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@_serving
def dev(path: Path | None, **options: Any) -> None:
    """Serve while you write: every save is live, every error shown where it is.

    PATH is one wrapper's folder or a directory of them (default: the pipelines directory).
    """
    from hayhooks.cli.dev import dev  # noqa: PLC0415 - imports the whole server

    sys.exit(dev(settings_of(options), path))


@main.command()
@where
@click.option("--json", "as_json", is_flag=True, help="Print what the server says as JSON.")
def status(as_json: bool, **options: Any) -> None:
    """Show what the running server serves.

    Exits with 1 if it does not answer, and with 2 if a deployment failed or is stale.
    """
    from hayhooks.cli.status import status  # noqa: PLC0415 - imports rich

    sys.exit(status(settings_of(options), as_json=as_json))


main.add_command(pipeline)
main.add_command(completion)
