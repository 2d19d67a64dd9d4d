"""``hayhooks pipeline new``: create a deployment from a template."""

import shutil
from pathlib import Path

from hayhooks.cli.client import Unreachable, find_server
from hayhooks.cli.deploy import usable_name
from hayhooks.cli.options import advice
from hayhooks.cli.output import CommandError, say
from hayhooks.cli.staging import PipelinesDirectory, reporting_os_errors
from hayhooks.cli.wait import say_unreachable, show_result, wait_until_loaded
from hayhooks.kernel.discovery import WRAPPER_FILE
from hayhooks.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"


def new(settings: Settings, name: str, *, template: str, timeout_s: float) -> int:
    """Create a deployment from a template; return 1 if the server cannot load it."""
    source = TEMPLATES / template
    name = usable_name(name, hint="", suffix="" if source.is_dir() else ".yml")
    directory = PipelinesDirectory(settings.pipelines_dir)
    if existing := directory.entries(name):
        raise CommandError(f"{existing[0]} already exists: use another name")
    filename = name if source.is_dir() else f"{name}.yml"
    with directory.staging() as staging:
        made = staging.new / filename
        with reporting_os_errors(f"Cannot create {directory.root / filename}"):
            if source.is_dir():
                shutil.copytree(source, made, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source.with_suffix(".yml"), made)
        change = staging.deploy(filename, overwrite=False)
    target = change.target
    say(f"Created {target}{f'; edit {target / WRAPPER_FILE}' if target.is_dir() else ''}.")
    server = find_server(directory.root, settings)
    if isinstance(server, Unreachable) and server.is_down:
        say((f"Serve it: {advice('run', with_directory=True)}", "dim"))
    elif isinstance(server, Unreachable):
        say_unreachable(server)
    else:
        result = wait_until_loaded(server, target, name, timeout_s, lambda: True)
        show_result(result, name)
        if not result.serves:
            return 1
    say((f"Try it: {advice(f'pipeline run {name} {_TRY[template]}')}", "dim"))
    return 0


_TRY = {
    "echo": "-p text=hello",
    "qa": "-p question='When is breakfast?'",
    "chat": "-p question='Who are you?' --stream",
    "agent": "-p question='What is 17 * 3?'",
    "yaml": "-p text=hello",
}
