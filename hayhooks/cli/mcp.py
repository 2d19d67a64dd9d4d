"""``hayhooks mcp``: the deployments as tools over stdin and stdout, and what clients have to be told."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from hayhooks.app import create_app
from hayhooks.cli.client import IS_IT_RUNNING, Server
from hayhooks.cli.output import CommandError, note
from hayhooks.cli.run import warn_of_unknown
from hayhooks.errors import StartError
from hayhooks.integrations.mcp import EXTRA
from hayhooks.kernel.discovery import WRAPPER_FILE
from hayhooks.kernel.threads import Outcome
from hayhooks.observability.log import configure_logging
from hayhooks.server.process import own_process
from hayhooks.settings import Settings, export_env_file


def serve(settings: Settings) -> None:
    """Serve the pipelines directory over stdin and stdout, in this process."""
    configure_logging(settings.log, settings.log_format)
    warn_of_unknown()
    export_env_file()
    stdio = _sdk()
    directory = settings.pipelines_dir.absolute()
    if not directory.is_dir():
        raise CommandError(
            f"The pipelines directory {directory} does not exist: create it, or give another --pipelines-dir"
        )
    if (directory / WRAPPER_FILE).exists():
        raise CommandError(
            f"{directory} is the folder of one pipeline: give its parent, --pipelines-dir {directory.parent}"
        )
    _note_waiting()

    def make_app() -> Any:
        app = create_app(settings)
        app.log_requests()
        return own_process(app)

    error = _run(stdio.serve_stdio(make_app))
    if error is not None:
        raise error


def connect(settings: Settings, url: str, api_key: str | None) -> None:
    """Bridge stdin and stdout to the server at *url*, its root or its ``/mcp``."""
    configure_logging("WARNING")
    stdio = _sdk()
    endpoint = url.rstrip("/").removesuffix("/mcp") + "/mcp"
    _note_waiting()
    key = api_key or next((key.key for key in settings.valid_keys()), "")
    error = _run(stdio.bridge(endpoint, key))
    if isinstance(error, StartError):
        raise error
    if error is not None:
        raise CommandError(f"No answer from {endpoint}: {error}. {IS_IT_RUNNING}")


def config(settings: Settings, clients: Sequence[str]) -> None:
    """Print what to put into the files of *clients*; of one alone, ready for its file."""
    for name in clients:
        where, content = _entry(settings, name)
        if len(clients) > 1:
            note((f"{name}: {where}", "bold"))
        print(content, flush=True)  # noqa: T201 - the result


def _note_waiting() -> None:
    if sys.stdin is None:
        raise CommandError("stdin is closed: clients write their messages to it")
    if sys.stdin.isatty():
        note("Waiting for MCP messages on stdin. Clients start this command themselves: see `hayhooks mcp config`")


def _sdk() -> Any:
    try:
        from hayhooks.integrations import mcp_stdio  # noqa: PLC0415 - the extra may be missing
    except ImportError:
        raise CommandError(EXTRA.missing) from None
    return mcp_stdio


def _run(serving: Coroutine[Any, Any, None]) -> BaseException | None:
    """Run *serving* until it ends, or a signal ends it; return its first error."""

    async def run() -> BaseException | None:
        task = asyncio.ensure_future(serving)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        error = (await Outcome.awaited(task)).error
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return None if isinstance(error, asyncio.CancelledError) else error

    return asyncio.run(run())


def _entry(settings: Settings, client: str) -> tuple[str, str]:
    """Return where a client looks for its servers, and the entry for this one."""
    url = f"{Server(settings).url}{settings.root_path.rstrip('/')}/mcp"
    headers = {"headers": {"Authorization": "Bearer YOUR_KEY"}} if settings.has_keys else {}
    if client == "claude-code":
        option = ' --header "Authorization: Bearer YOUR_KEY"' if headers else ""
        return "run this command", f"claude mcp add --transport http hayhooks {url}{option}"
    if client == "claude-desktop":
        command = Path(sys.argv[0]).absolute()
        arguments = ["mcp", "run", "--pipelines-dir", str(settings.pipelines_dir.absolute())]
        entry: dict[str, Any] = {"mcpServers": {"hayhooks": {"command": str(command), "args": arguments}}}
        where = "claude_desktop_config.json (Settings, Developer, Edit Config)"
    elif client == "cursor":
        where, entry = "~/.cursor/mcp.json", {"mcpServers": {"hayhooks": {"url": url, **headers}}}
    else:
        where, entry = ".vscode/mcp.json", {"servers": {"hayhooks": {"type": "http", "url": url, **headers}}}
    return where, json.dumps(entry, indent=2)
