"""``hayhooks pipeline new``: begin with a wrapper that runs."""

import shutil
from pathlib import Path
from string import Template

from hayhooks.cli import follow
from hayhooks.cli.client import Unreachable, serving
from hayhooks.cli.deploy import usable_name
from hayhooks.cli.output import CommandError, say
from hayhooks.cli.staging import PipelinesDirectory, reporting_os_errors
from hayhooks.kernel.discovery import WRAPPER_FILE
from hayhooks.settings import Settings

TEMPLATES = Path(__file__).parent / "templates"


def new(settings: Settings, name: str, *, template: str, timeout_s: float) -> int:
    """Make a deployment *name* of a template; it is served at once if a server runs."""
    name = usable_name(name, hint="")
    directory = PipelinesDirectory(settings.pipelines_dir)
    if there := directory.claims(name):
        raise CommandError(f"{there[0]} exists already: use another name")
    source = TEMPLATES / template
    filename = name if source.is_dir() else f"{name}.yml"
    with directory.workshop() as workshop:
        made = workshop.new / filename
        with reporting_os_errors(f"{directory.root / filename} cannot be made"):
            if source.is_dir():
                shutil.copytree(source, made, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source.with_suffix(".yml"), made)
        change = workshop.deploy(filename, overwrite=False)
    target = change.target
    say(f"Made {target}{f'; begin in {target / WRAPPER_FILE}' if target.is_dir() else ''}.")
    server = serving(directory.root, settings)
    if isinstance(server, Unreachable):
        follow.tell_no_server(server)
    else:
        outcome = follow.follow(server, target, name, timeout_s, lambda: True)
        follow.show(outcome, name)
        if not outcome.serves:
            return 1
    say((Template(_TRY[template]).substitute(name=name), "dim"))
    return 0


_TRY = {
    "echo": "Try it: hayhooks pipeline run $name -p text=hello",
    "qa": "Try it: hayhooks pipeline run $name -p question='When is breakfast?'",
    "chat": "Try it: hayhooks pipeline run $name -p question='Who are you?' --stream",
    "agent": "Try it: hayhooks pipeline run $name -p question='What is 17 * 3?'",
    "yaml": "Try it: hayhooks pipeline run $name -p text=hello",
}
