"""``hayhooks pipeline new``: create a deployment from a template."""

import os
import re
import shlex
import shutil
from contextlib import suppress
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

_MAX_MODULE = 200  # characters: a file has at most 255 bytes in its name


def new(settings: Settings, name: str, *, template: str, timeout_s: float) -> int:
    """Create a deployment from a template; return 1 if the server cannot load it."""
    name = usable_name(name, hint="", suffix="" if (TEMPLATES / template).is_dir() else ".yml")
    directory = PipelinesDirectory(settings.pipelines_dir)
    with suppress(OSError):
        (directory.root / name).rmdir()  # an empty folder is as good as none
    if existing := directory.entries(name):
        raise CommandError(f"{existing[0]} already exists: use another name")
    target = _create(directory, name, template)
    say(f"Created {target} from {template}{f'; edit {target / WRAPPER_FILE}' if target.is_dir() else ''}.")
    if name != template and (TEMPLATES / name).is_dir():
        say((f"The template {name} is another one: use --template {name} and another name for that", "yellow"))
    server = find_server(directory.root, settings)
    if isinstance(server, Unreachable) and server.is_down:
        is_default = settings.pipelines_dir == Settings.model_fields["pipelines_dir"].default
        serve = "dev" if is_default else f"dev {shlex.quote(str(settings.pipelines_dir))}"
        say((f"Serve it: {advice(serve)}", "dim"))
    elif isinstance(server, Unreachable):
        say_unreachable(server)
    else:
        result = wait_until_loaded(server, target, name, timeout_s, lambda: True)
        show_result(result, name)
        if not result.serves:
            return 1
    place = shlex.quote(os.path.relpath(target))
    say((f"Try it: {advice(_TRY[template].format(name=name, place=place))}", "dim"))
    if target.is_dir():
        say((f"Test it: pytest {place}", "dim"))
    return 0


def _create(directory: PipelinesDirectory, name: str, template: str) -> Path:
    source = TEMPLATES / template
    filename = name if source.is_dir() else f"{name}.yml"
    with directory.staging() as staging:
        made = staging.new / filename
        with reporting_os_errors(f"Cannot create {directory.root / filename}"):
            if source.is_dir():
                shutil.copytree(source, made, ignore=shutil.ignore_patterns("__pycache__"))
                # pytest imports each test by the name of its file, which may be there once.
                module = re.sub("[^a-zA-Z0-9]", "_", name)[:_MAX_MODULE]
                (made / "test_wrapper.py").rename(made / f"test_{module}.py")
            else:
                shutil.copyfile(source.with_suffix(".yml"), made)
        return staging.deploy(filename, overwrite=False).target


_TRY = {
    "echo": "pipeline run {name} -p text=hello",
    "chat": "chat {name}",
    "rag": "pipeline run {name} -p question='When is breakfast?'",
    "agent": "pipeline run {name} -p question='What is 17 * 3?'",
    "upload": "pipeline run {name} -f {place}/example.md",
    "memory": "pipeline run {name} -p session=me -p message='I like tea.'",
    "yaml": "pipeline run {name} -p question='Who are you?' --stream",
}
