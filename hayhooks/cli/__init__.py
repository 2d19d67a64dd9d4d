"""The command line: thin functions of settings, each imported when it is called.

``hayhooks --help`` imports click and nothing heavier; only commands that serve import Haystack and Starlette.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from hayhooks._version import __version__
from hayhooks.cli.completion import completion, deployed_names
from hayhooks.cli.executions import executions
from hayhooks.cli.options import (
    AddressCommand,
    Command,
    Text,
    directory_option,
    python_path_option,
    server_options,
    settings_of,
)
from hayhooks.cli.output import note
from hayhooks.cli.pipeline import pipeline
from hayhooks.errors import StartError
from hayhooks.kernel.standard_streams import reopen_streams
from hayhooks.server.process import permanent_imports


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hayhooks")
def main() -> None:
    """Serve Haystack pipelines and agents over REST and the OpenAI API.

    The pipelines directory is what is served: a folder with a pipeline_wrapper.py, or a NAME.yml. Changing it replaces
    the deployment, removing it undeploys.

    Options can also be set in the environment or in a .env file: HAYHOOKS_PORT=8000 for --port 8000.
    """
    reopen_streams()  # as with `hayhooks run 2>&-`: descriptor 2 would be the next file or connection


main.command_class = AddressCommand


def _serving_options(command: Command) -> Command:
    for option in (
        click.option("--ssl-keyfile", type=click.Path(path_type=Path), help="Private key of the certificate."),
        click.option("--ssl-certfile", type=click.Path(path_type=Path), help="Serve TLS with this certificate chain."),
        python_path_option,
        click.option("--root-path", help="URL path prefix added by a proxy, such as /hayhooks."),
    ):
        command = option(command)
    return server_options(command, port=("-p", "--port"))


def _directory_and_workers_options(command: Command) -> Command:
    command = directory_option(command, names=("-d", "--pipelines-dir"))
    return click.option("-w", "--workers", type=int, help="Number of server processes (default: 1).")(command)


@main.command()
@_serving_options
@_directory_and_workers_options
@click.option("-r", "--reload", is_flag=True, help="Not needed: every change of the directory is served at once.")
def run(reload: bool, **options: Any) -> None:
    """Serve the pipelines directory until stopped."""
    if reload:
        note("--reload is always on: every change of the pipelines directory is served at once")
    with permanent_imports():
        from hayhooks.cli.run import run  # noqa: PLC0415 - imports the whole server
    try:
        sys.exit(run(settings_of(options)))
    except StartError as error:
        raise click.ClickException(str(error)) from None


def _refuse_directory(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        message = f"dev takes the directory as an argument: hayhooks dev {shlex.quote(value)}"
        raise click.UsageError(message, context)


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("-d", "--pipelines-dir", hidden=True, expose_value=False, callback=_refuse_directory)
@click.option(
    "--tracebacks", is_flag=True, help="Print the traceback of each error too, not just the place in your code."
)
@click.option("--open", "opens_page", is_flag=True, help="Open the console in the browser.")
@click.option(
    "--try",
    "tries",
    nargs=2,
    multiple=True,
    metavar="NAME JSON",
    help="Send this request to NAME after each save, and print what changed in its answer.",
)
@click.option(
    "--try-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of such requests: in each line NAME and JSON.",
)
@_serving_options
def dev(
    path: Path | None,
    tracebacks: bool,
    opens_page: bool,
    tries: tuple[tuple[str, str], ...],
    try_file: Path | None,
    **options: Any,
) -> None:
    """Serve during development, and print the result of every save.

    PATH is one wrapper's folder, one YAML pipeline, or a directory of them (default: the pipelines directory).
    """
    with permanent_imports():
        from hayhooks.cli.dev import dev  # noqa: PLC0415 - imports the whole server
        from hayhooks.cli.try_requests import parsed  # noqa: PLC0415 - as above
    try:
        requests = parsed(tries, try_file)
        sys.exit(dev(settings_of(options), path, tracebacks=tracebacks, opens_page=opens_page, requests=requests))
    except StartError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@server_options
@click.option("--json", "as_json", is_flag=True, help="Print the server's status as JSON.")
def status(as_json: bool, **options: Any) -> None:
    """Print what the running server serves.

    Exit status 1 if the server does not answer, 2 if a deployment failed or is stale, or workers differ.
    """
    with permanent_imports():
        from hayhooks.cli.status import status  # noqa: PLC0415 - imports the settings
    sys.exit(status(settings_of(options), as_json=as_json))


@main.command()
@_serving_options
@_directory_and_workers_options
@click.option("--json", "as_json", is_flag=True, help="Print the settings as JSON.")
def config(as_json: bool, **options: Any) -> None:
    """Print the effective settings and the source of each.

    Secrets are masked. Exit status 2 with a message if a setting is invalid.
    """
    with permanent_imports():
        from hayhooks.cli.config import config  # noqa: PLC0415 - imports the settings
    sys.exit(config(settings_of(options), {name for name, value in options.items() if value is not None}, as_json))


@main.command()
@click.argument("name", required=False, shell_complete=deployed_names)
@click.option("--url", help="Talk to the server at this address: its root, or the base URL that ends with /v1.")
@click.option("--api-key", help="Key for the server (default: the first of HAYHOOKS_API_KEYS).")
@click.option("--system", type=Text(), default="", help="System message.")
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(click.get_app_dir("hayhooks")) / "chat_history",
    show_default=True,
    help="File of the lines that you typed.",
)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait for more data."
)
@server_options
def chat(name: str | None, **options: Any) -> None:
    """Chat with NAME in the terminal.

    NAME is a deployment of the running server, or a model of another server with the OpenAI API (--url). In a pipe each
    line is a message, and only the answers are printed to stdout.
    """
    with permanent_imports():
        from hayhooks.cli.chat import ChatOptions, chat  # noqa: PLC0415 - imports httpx
    chosen = ChatOptions(**{key: options.pop(key) for key in ChatOptions.__slots__})
    sys.exit(chat(settings_of(options), name, chosen))


@main.group()
def mcp() -> None:
    """Offer the pipelines as tools of the Model Context Protocol.

    `hayhooks run` serves them at /mcp. These commands are for clients that start a process of their own.
    """


def _refuse_address(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        message = "mcp run speaks over stdin and stdout; over HTTP the tools are at /mcp of hayhooks run"
        raise click.UsageError(message, context)


@mcp.command("run")
@click.option("--host", "--port", hidden=True, expose_value=False, callback=_refuse_address)
@click.option("--connect", metavar="URL", help="Pass the messages on to the running server at this address.")
@click.option(
    "--api-key",
    help="Key for that server (default: the most powerful of HAYHOOKS_API_KEYS and HAYHOOKS_API_KEYS_FILE).",
)
@directory_option
@python_path_option
@click.option("--env-file", type=click.Path(exists=True, dir_okay=False), help="Read variables from this file.")
def mcp_run(connect: str | None, api_key: str | None, **options: Any) -> None:
    """Serve the pipelines directory over stdin and stdout.

    With --connect no pipeline is loaded: the messages go to a running server, whose tools these are.
    """
    if connect is None and api_key is not None:
        raise click.UsageError("--api-key is the key for the server of --connect URL")
    if connect is not None:
        if not connect.startswith(("http://", "https://")):
            raise click.UsageError(f"--connect takes a URL: begin it with http:// or https://, as http://{connect}")
        if any(value is not None for name, value in options.items() if name != "env_file"):
            raise click.UsageError("With --connect the tools are the server's: leave out the directories")
    with permanent_imports():
        from hayhooks.cli.mcp import connect as bridge  # noqa: PLC0415 - imports the whole server
        from hayhooks.cli.mcp import serve  # noqa: PLC0415 - as above
    settings = settings_of(options)
    try:
        bridge(settings, connect, api_key) if connect else serve(settings)
    except StartError as error:
        raise click.ClickException(str(error)) from None


_MCP_CLIENTS = ("claude-desktop", "claude-code", "cursor", "vscode")


@mcp.command("config")
@click.argument("client", type=click.Choice(_MCP_CLIENTS), required=False)
@directory_option
@server_options
def mcp_config(client: str | None, **options: Any) -> None:
    """Print what to put into the files of MCP clients; of CLIENT alone, ready for its file."""
    from hayhooks.cli.mcp import config  # noqa: PLC0415 - imports the whole server

    if client == "claude-desktop" and (options["host"] or options["port"]):
        raise click.UsageError(
            "Claude Desktop starts a process of its own, which has no address: leave out --host, --port"
        )
    if client not in (None, "claude-desktop") and options["pipelines_dir"]:
        raise click.UsageError(f"{client} connects to the server, which has the directory: leave out --pipelines-dir")
    config(settings_of(options), [client] if client else _MCP_CLIENTS)


main.add_command(executions)
main.add_command(pipeline)
main.add_command(completion)
