"""``hayhooks pipeline``: commands on the pipelines directory. What they do is imported when they are called."""

import sys
from pathlib import Path
from typing import Any

import click

from hayhooks.cli.completion import deployed_names
from hayhooks.cli.options import Command, on_the_directory, server_options, settings_of
from hayhooks.kernel.discovery import YAML_SUFFIXES

_TEMPLATES = ("echo", "qa", "chat", "agent", "yaml")

_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)


class _Pipeline(click.Group):
    """Knows ``deploy-yaml`` as another name of ``deploy``."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "deploy" if cmd_name == "deploy-yaml" else cmd_name)


@click.group(cls=_Pipeline)
def pipeline() -> None:
    """Work on the pipelines directory, and call what is served.

    Nothing is sent to the server but calls of `run`: the directory says what is served. Where a server serves it, the
    other commands wait for what it makes of the change.
    """


def _timeout(default: int) -> Command:
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        default=default,
        show_default=True,
        help="Seconds to wait for a load.",
    )


def _deploying(command: Command) -> Command:
    for option in (
        _timeout(120),
        click.option("--no-check", is_flag=True, help="Do not load it in a process of its own first."),
        click.option("--no-rollback", is_flag=True, help="Leave it there even if the server cannot serve it."),
        click.option("-o", "--overwrite", is_flag=True, help="Replace what has that name."),
        click.option("-n", "--name", help="Its name (default: that of the folder or file)."),
    ):
        command = option(command)
    return on_the_directory(command)


def _how(options: dict[str, Any]) -> Any:
    from hayhooks.cli.deploy import DeployOptions  # noqa: PLC0415 - imports what it works with

    return DeployOptions(
        overwrite=options.pop("overwrite"),
        rollback=not options.pop("no_rollback"),
        checked=not options.pop("no_check"),
        timeout_s=options.pop("timeout_s"),
    )


@pipeline.command("deploy-files")
@click.argument("source", metavar="DIR", type=_folder)
@click.option("-s", "--skip-saving-files", is_flag=True, help="Deploy a link to DIR: no files are saved.")
@_deploying
def deploy_files(source: Path, name: str | None, skip_saving_files: bool, **options: Any) -> None:
    """Deploy a copy of the folder DIR.

    It is loaded first in a process of its own. Then it comes into the pipelines directory in one step, and when the
    server says that it cannot serve it, what was there before comes back.
    """
    from hayhooks.cli.deploy import deploy_files as deploy  # noqa: PLC0415 - imports what it works with

    how = _how(options)
    name = name if name is not None else source.absolute().name
    sys.exit(deploy(settings_of(options), source, name=name, as_link=skip_saving_files, how=how))


@pipeline.command()
@click.argument("source", metavar="NAME.yml", type=_file)
@click.option("--description", help="What its key `description` is to say.")
@_deploying
def deploy(source: Path, name: str | None, description: str | None, **options: Any) -> None:
    """Deploy a copy of the YAML file NAME.yml.

    As deploy-files does it. `deploy-yaml` is the same.
    """
    from hayhooks.cli.deploy import deploy_yaml  # noqa: PLC0415 - imports what it works with

    how = _how(options)
    if source.suffix not in YAML_SUFFIXES:
        raise click.UsageError(f"{source} is no YAML file by its name: it must end in .yml or .yaml")
    name = name if name is not None else source.stem
    sys.exit(deploy_yaml(settings_of(options), source, name=name, description=description, how=how))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.option("--purge", is_flag=True, help="Delete it, instead of moving it to a trash folder.")
@_timeout(60)
@on_the_directory
def undeploy(name: str, purge: bool, timeout_s: float, **options: Any) -> None:
    """Take NAME out of the pipelines directory.

    It is moved to a trash folder beside that; of a link the link alone is removed. What it still answers is answered to
    the end.
    """
    from hayhooks.cli.deploy import undeploy  # noqa: PLC0415 - imports what it works with

    sys.exit(undeploy(settings_of(options), name, purge=purge, timeout_s=timeout_s))


@pipeline.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@on_the_directory
def list_(as_json: bool, **options: Any) -> None:
    """List what is deployed, and how it is."""
    from hayhooks.cli.listing import list_pipelines  # noqa: PLC0415 - imports what it works with

    sys.exit(list_pipelines(settings_of(options), as_json=as_json))


@pipeline.command()
@click.argument("path", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option("-n", "--name", help="The name to check it for (default: that of the folder or file).")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@_timeout(120)
def check(path: Path, name: str | None, as_json: bool, timeout_s: float) -> None:
    """Load a wrapper and tell what it offers.

    DIR is its folder, or a YAML file. It is loaded in a process of its own, and its operations, endpoints,
    models and warnings are printed. Exits with 1 if it does not load.
    """
    from hayhooks.cli.check import check  # noqa: PLC0415 - imports what it works with

    path = path.absolute()
    name = name or (path.name if path.is_dir() else path.stem)
    sys.exit(check(settings_of({}), path, name=name, timeout_s=timeout_s, as_json=as_json))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.option("-p", "--param", "arguments", metavar="KEY=VALUE", multiple=True, help="An argument: JSON, or else text.")
@click.option("-f", "--file", "files", type=_file, multiple=True, help="A file to upload.")
@click.option("-d", "--dir", "directories", type=_folder, multiple=True, help="A directory whose files to upload.")
@click.option("--stream", is_flag=True, help="Print the answer as it comes.")
@click.option("-O", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer to this file.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), help="Seconds to wait for more.")
@server_options
def run(name: str, **options: Any) -> None:
    """Call a pipeline of the running server.

    Sends the arguments to POST /NAME/run, as a form if there are files, and prints the result.
    """
    from hayhooks.cli.call import Call, run  # noqa: PLC0415 - imports httpx

    call = Call(**{key: options.pop(key) for key in Call.__slots__})
    sys.exit(run(settings_of(options), name, call))


@pipeline.command()
@click.argument("name")
@click.option(
    "-t", "--template", type=click.Choice(_TEMPLATES), default="echo", show_default=True, help="What to begin with."
)
@_timeout(120)
@on_the_directory
def new(name: str, template: str, timeout_s: float, **options: Any) -> None:
    """Begin with a deployment that runs.

    It is called NAME and runs at once, offline and without a key.
    """
    from hayhooks.cli.new import new  # noqa: PLC0415 - imports what it works with

    sys.exit(new(settings_of(options), name, template=template, timeout_s=timeout_s))
