"""``hayhooks pipeline``: thin commands; each imports its implementation when called."""

import difflib
import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from hayhooks.cli.completion import deployed_names
from hayhooks.cli.options import (
    AddressCommand,
    Command,
    Text,
    directory_and_server_options,
    python_path_option,
    server_options,
    settings_of,
)
from hayhooks.kernel.discovery import YAML_SUFFIXES

if TYPE_CHECKING:
    from hayhooks.settings import Settings

_TEMPLATES = {
    "echo": "the smallest: one component, and a method that runs it",
    "chat": "a conversation with a model, streamed",
    "rag": "answers from documents in its folder, with sources",
    "agent": "a model with tools",
    "upload": "takes documents by upload, and answers from them",
    "memory": "keeps the conversation of each session",
    "yaml": "a chat and a `/run` without code",
}
_TEMPLATES_LISTED = "\n".join(f"{name:<8} {about}" for name, about in _TEMPLATES.items())

_folder = click.Path(exists=True, file_okay=False, path_type=Path)
_file = click.Path(exists=True, dir_okay=False, path_type=Path)
_positive = click.FloatRange(min=0, min_open=True)


class _Upload(click.ParamType):  # type: ignore[type-arg]  # generic only in new versions of click
    """A path to upload, with the field of the form that it is for: ``FIELD=PATH``, or ``PATH`` alone."""

    def __init__(self, kind: str, path: click.Path) -> None:
        self.name = f"[FIELD=]{kind}"
        self._path = path

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        field, equals, path = value.partition("=")
        if not equals or not field.isidentifier():
            field, path = "", value
        return field, Path(str(self._path.convert(path, param, ctx)))


class _Template(click.ParamType):  # type: ignore[type-arg]  # as above
    name = "template"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in _TEMPLATES:
            close = difflib.get_close_matches(value.lower(), _TEMPLATES, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            self.fail(f"there is no template {value!r}{meant}\n\n{_TEMPLATES_LISTED}", param, ctx)
        return str(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name, help=about) for name, about in _TEMPLATES.items() if name.startswith(incomplete)]


class _Share(click.ParamType):  # type: ignore[type-arg]  # as above
    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from hayhooks.setting_types import parse_share  # noqa: PLC0415 - imports pydantic

        try:
            return parse_share(value)
        except ValueError as error:
            self.fail(f"{value!r} is not a share of the requests: {error}", param, ctx)


class _PipelineGroup(click.Group):
    """A group with ``deploy-yaml`` as an alias of ``deploy``."""

    command_class = AddressCommand

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, "deploy" if cmd_name == "deploy-yaml" else cmd_name)


@click.group(cls=_PipelineGroup)
def pipeline() -> None:
    """Work on the pipelines directory, and call deployments.

    Only `run` sends a request to a pipeline. The other commands work on the directory; if a server serves it, they wait
    for its result.
    """


def _timeout_option(default: int) -> Command:
    return click.option(
        "--timeout",
        "timeout_s",
        type=_positive,
        default=default,
        show_default=True,
        help="Seconds to wait for the server.",
    )


def _deploy_options(command: Command) -> Command:
    for option in (
        _timeout_option(120),
        click.option(
            "--canary",
            type=_Share(),
            help="Share of the requests that it gets at first, beside what it replaces, such as 10%.",
        ),
        click.option("--no-check", is_flag=True, help="Do not load it in a separate process first."),
        click.option("--no-rollback", is_flag=True, help="Leave it there even if the server cannot load it."),
        click.option("-o", "--overwrite", is_flag=True, help="Replace an existing deployment of that name."),
        click.option("-n", "--name", help="Name of the deployment (default: that of the folder or file)."),
    ):
        command = option(command)
    return directory_and_server_options(python_path_option(command))


def _settings_to_check(options: dict[str, Any]) -> "Settings":
    """Return the settings; unless they are given, a server's directories of shared modules are used."""
    from hayhooks.cli.client import with_python_path_of_server  # noqa: PLC0415 - imports the settings

    settings = settings_of(options)
    is_given = options["additional_python_path"] is not None
    return settings if is_given else with_python_path_of_server(settings)


def _pop_deploy_options(options: dict[str, Any]) -> Any:
    from hayhooks.cli.deploy import DeployOptions  # noqa: PLC0415 - imports the settings

    return DeployOptions(
        overwrite=options.pop("overwrite"),
        rollback=not options.pop("no_rollback"),
        checked=not options.pop("no_check"),
        timeout_s=options.pop("timeout_s"),
        canary=options.pop("canary"),
    )


@pipeline.command("deploy-files")
@click.argument("source", metavar="DIR", type=_folder)
@click.option("-s", "--skip-saving-files", is_flag=True, help="Link to DIR instead of copying it.")
@_deploy_options
def deploy_files(source: Path, name: str | None, skip_saving_files: bool, **options: Any) -> None:
    """Deploy a copy of the folder DIR.

    DIR is first loaded in a separate process. Then the copy is put into the pipelines directory in one step. If the
    server cannot load it, the previous version is restored.
    """
    from hayhooks.cli.deploy import deploy_files as deploy  # noqa: PLC0415 - imports the settings

    deploy_options = _pop_deploy_options(options)
    name = name if name is not None else source.absolute().name
    sys.exit(deploy(_settings_to_check(options), source, name=name, as_link=skip_saving_files, options=deploy_options))


@pipeline.command()
@click.argument("source", metavar="NAME.yml", type=_file)
@click.option("--description", help="Value for its key `description`.")
@_deploy_options
def deploy(source: Path, name: str | None, description: str | None, **options: Any) -> None:
    """Deploy a copy of the YAML pipeline NAME.yml.

    In the same way as deploy-files. `deploy-yaml` is an alias.
    """
    from hayhooks.cli.deploy import deploy_yaml  # noqa: PLC0415 - imports the settings

    deploy_options = _pop_deploy_options(options)
    if source.suffix not in YAML_SUFFIXES:
        raise click.UsageError(f"{source} is not a YAML file: its name must end in .yml or .yaml")
    name = name if name is not None else source.stem
    sys.exit(
        deploy_yaml(_settings_to_check(options), source, name=name, description=description, options=deploy_options)
    )


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.option("--purge", is_flag=True, help="Delete it instead of moving it to the trash folder.")
@_timeout_option(60)
@directory_and_server_options
def undeploy(name: str, purge: bool, timeout_s: float, **options: Any) -> None:
    """Remove NAME from the pipelines directory.

    It is moved to a trash folder beside the directory; of a link only the link is removed. Requests in progress are
    finished.
    """
    from hayhooks.cli.deploy import undeploy  # noqa: PLC0415 - imports the settings

    sys.exit(undeploy(settings_of(options), name, purge=purge, timeout_s=timeout_s))


@pipeline.command()
@click.argument("name", required=False, shell_complete=deployed_names)
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@directory_and_server_options
def history(name: str | None, as_json: bool, **options: Any) -> None:
    """List the revisions that served.

    Those that are kept in the state directory, of NAME or of all, the last first: when each last served, how long its
    load took, how it ended.
    """
    from hayhooks.cli.revisions import history  # noqa: PLC0415 - imports the settings

    sys.exit(history(settings_of(options), name, as_json=as_json))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.argument("before", metavar="[REV", required=False)
@click.argument("after", metavar="[REV]]", required=False)
@directory_and_server_options
def diff(name: str, before: str | None, after: str | None, **options: Any) -> None:
    """Print what a change of NAME was.

    Between two saved revisions, or from one to what is in the pipelines directory. Without any: what `rollback` would
    take back.
    """
    from hayhooks.cli.revisions import diff  # noqa: PLC0415 - imports the settings

    sys.exit(diff(settings_of(options), name, before, after))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.argument("revision", metavar="[REV]", required=False)
@click.option("--force", is_flag=True, help="Replace a link by a copy.")
@_timeout_option(120)
@directory_and_server_options
def rollback(name: str, revision: str | None, force: bool, timeout_s: float, **options: Any) -> None:
    """Put an earlier revision of NAME back.

    REV is the beginning of an id of `history`; without it the last one that differs from what is there. The files are
    replaced in one step. If a server serves the directory, its result is reported.
    """
    from hayhooks.cli.revisions import rollback  # noqa: PLC0415 - imports the settings

    sys.exit(rollback(settings_of(options), name, revision, force=force, timeout_s=timeout_s))


@pipeline.command()
@click.argument("name")
@click.argument("revision", metavar="[REV]", required=False)
@_timeout_option(120)
@directory_and_server_options
def restore(name: str, revision: str | None, timeout_s: float, **options: Any) -> None:
    """Put NAME back, which was removed.

    Its last revision that served, or REV, the beginning of an id of `history`.
    """
    from hayhooks.cli.revisions import restore  # noqa: PLC0415 - imports the settings

    sys.exit(restore(settings_of(options), name, revision, timeout_s=timeout_s))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@_timeout_option(60)
@directory_and_server_options
def promote(name: str, timeout_s: float, **options: Any) -> None:
    """Give the canary of NAME all requests.

    The revision that it replaces stays loaded for the trial, as after each deploy.
    """
    from hayhooks.cli.revisions import end_canary  # noqa: PLC0415 - imports the settings

    sys.exit(end_canary(settings_of(options), name, promotes=True, timeout_s=timeout_s))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@_timeout_option(60)
@directory_and_server_options
def abort(name: str, timeout_s: float, **options: Any) -> None:
    """Take all requests from the canary of NAME.

    The revision beside it serves them. The files stay as they are, and are not served again until they change.
    """
    from hayhooks.cli.revisions import end_canary  # noqa: PLC0415 - imports the settings

    sys.exit(end_canary(settings_of(options), name, promotes=False, timeout_s=timeout_s))


@pipeline.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@directory_and_server_options
def list_(as_json: bool, **options: Any) -> None:
    """List the deployments and their states."""
    from hayhooks.cli.status import list_pipelines  # noqa: PLC0415 - imports the settings

    sys.exit(list_pipelines(settings_of(options), as_json=as_json))


@pipeline.command()
@click.argument("path", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option("-n", "--name", help="Name to check it for (default: that of the folder or file).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@_timeout_option(120)
@python_path_option
@directory_and_server_options
def check(path: Path, name: str | None, as_json: bool, timeout_s: float, **options: Any) -> None:
    """Load a wrapper and print what it offers.

    DIR is a folder or a YAML file, loaded in a separate process. Prints its operations, endpoints, models and warnings.
    Exit status 1 if it does not load. If a server serves the pipelines directory, its shared modules are used.
    """
    from hayhooks.cli.check import check  # noqa: PLC0415 - imports the settings

    path = path.absolute()
    name = name or (path.name if path.is_dir() else path.stem)
    sys.exit(check(_settings_to_check(options), path, name=name, timeout_s=timeout_s, as_json=as_json))


@pipeline.command()
@click.argument("name", shell_complete=deployed_names)
@click.option(
    "-p", "--param", "arguments", type=Text(), metavar="KEY=VALUE", multiple=True, help="An argument: JSON, else text."
)
@click.option("-f", "--file", "files", type=_Upload("FILE", _file), multiple=True, help="A file to upload.")
@click.option(
    "-d", "--dir", "directories", type=_Upload("DIR", _folder), multiple=True, help="A directory whose files to upload."
)
@click.option("--stream", is_flag=True, help="Print the answer while it is made.")
@click.option("-O", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the answer to this file.")
@click.option("--timeout", "timeout_s", type=_positive, help="Seconds to wait for more data.")
@server_options
def run(name: str, **options: Any) -> None:
    """Call a pipeline of the running server.

    Sends the arguments to POST /NAME/run, as a form if there are files, and prints the result. A pipeline with more
    than one parameter for files needs -f FIELD=FILE. One that can only chat is asked with -p message=TEXT.
    """
    from hayhooks.cli.call import CallOptions, run  # noqa: PLC0415 - imports httpx

    call = CallOptions(**{key: options.pop(key) for key in CallOptions.__slots__})
    sys.exit(run(settings_of(options), name, call))


def _list_templates(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(_TEMPLATES_LISTED)
        ctx.exit()


@pipeline.command(epilog=f"\b\nTemplates:\n{indent(_TEMPLATES_LISTED, '  ')}")
@click.argument("name")
@click.option("-t", "--template", type=_Template(), default="echo", show_default=True, help="Template to start from.")
@click.option(
    "-l",
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_templates,
    help="List the templates.",
)
@_timeout_option(120)
@directory_and_server_options
def new(name: str, template: str, timeout_s: float, **options: Any) -> None:
    """Create a deployment from a template, with a test.

    It is called NAME and runs at once, offline and without a key.
    """
    from hayhooks.cli.new import new  # noqa: PLC0415 - imports the settings

    sys.exit(new(settings_of(options), name, template=template, timeout_s=timeout_s))
