"""``hayhooks completion``: complete commands, options and names in a shell."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SHELLS = ("bash", "zsh", "fish")


# \b keeps the line breaks of its paragraph.
_HELP = """Print the completion script for SHELL.

\b
bash: hayhooks completion bash > ~/.local/share/bash-completion/completions/hayhooks
zsh:  hayhooks completion zsh > "${fpath[1]}/_hayhooks"
fish: hayhooks completion fish > ~/.config/fish/completions/hayhooks.fish
"""


@click.command(help=_HELP)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script for *shell*."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - --help must stay fast

    from hayhooks.cli import main  # noqa: PLC0415 - it imports this module

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "hayhooks", "_HAYHOOKS_COMPLETE").source())


def deployed_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list["CompletionItem"]:
    """Complete a name in the pipelines directory; no names if it cannot be read."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - as above

    from hayhooks.cli.options import settings_of  # noqa: PLC0415 - as above
    from hayhooks.cli.status import names_in  # noqa: PLC0415 - as above

    try:
        root: Path = settings_of({"pipelines_dir": context.params.get("pipelines_dir")}).pipelines_dir
        return [CompletionItem(name, help=kind) for name, kind in names_in(root).items() if name.startswith(incomplete)]
    except (OSError, click.ClickException):
        return []
