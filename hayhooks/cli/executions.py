"""``hayhooks executions``: thin commands; each imports its implementation when called."""

from typing import Any

import click

from hayhooks.cli.options import AddressCommand, server_options, settings_of

_STATES = ("queued", "running", "waiting", "completed", "failed", "canceled")

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def executions() -> None:
    """Look after executions: work that outlives its request.

    An ID may be cut to its first characters.
    """


executions.command_class = AddressCommand


@executions.command("list")
@click.argument("name", required=False)
@click.option("--status", type=click.Choice(_STATES), multiple=True, help="Only these; may be repeated.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, the newest first.")
@_as_json
@server_options
def list_(name: str | None, status: tuple[str, ...], limit: int, as_json: bool, **options: Any) -> None:
    """List executions, of NAME or of all deployments."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).list(name, status, limit, as_json=as_json)


@executions.command("show")
@click.argument("execution_id", metavar="ID")
@_as_json
@server_options
def show(execution_id: str, as_json: bool, **options: Any) -> None:
    """Show an execution: its state, attempts, steps, progress, and result."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).show(execution_id, as_json=as_json)


@executions.command("watch")
@click.argument("execution_id", metavar="ID")
@server_options
def watch(execution_id: str, **options: Any) -> None:
    """Print progress, states and chunks of an execution as they come, until it ends; exit status 1 if it failed."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    raise SystemExit(ExecutionClient(settings_of(options)).watch(execution_id))


@executions.command("cancel")
@click.argument("execution_id", metavar="ID")
@click.option("--reason", default="", help="Why.")
@server_options
def cancel(execution_id: str, reason: str, **options: Any) -> None:
    """Ask for the end of an execution."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).act(execution_id, "cancel", {"reason": reason})


@executions.command("resume")
@click.argument("execution_id", metavar="ID")
@click.argument("value", metavar="JSON", required=False)
@server_options
def resume(execution_id: str, value: str | None, **options: Any) -> None:
    """Go on with an execution that waits, with the answer JSON."""
    from hayhooks.cli.execution_client import ExecutionClient, parsed  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).act(execution_id, "resume", parsed(value))


@executions.command("retry")
@click.argument("execution_id", metavar="ID")
@server_options
def retry(execution_id: str, **options: Any) -> None:
    """Run a failed or canceled execution again, from its last checkpoint."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).act(execution_id, "retry", None)


@executions.command("delete")
@click.argument("execution_id", metavar="ID")
@server_options
def delete(execution_id: str, **options: Any) -> None:
    """Forget an execution that has ended."""
    from hayhooks.cli.execution_client import ExecutionClient  # noqa: PLC0415 - imports httpx

    ExecutionClient(settings_of(options)).delete(execution_id)
