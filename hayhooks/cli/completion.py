"""``hayhooks completion``: what a shell needs to complete our commands, options and names."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SHELLS = ("bash", "zsh", "fish")


# \b keeps the lines of the paragraph that it begins apart.
_HELP = """Print a script that completes hayhooks in SHELL.

\b
bash: hayhooks completion bash > ~/.local/share/bash-completion/completions/hayhooks
zsh:  hayhooks completion zsh > "${fpath[1]}/_hayhooks"
fish: hayhooks completion fish > ~/.config/fish/completions/hayhooks.fish
"""


@click.command(help=_HELP)
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print a script that completes hayhooks in *shell*."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - --help must not pay for it

    from hayhooks.cli import main  # noqa: PLC0415 - it holds this command

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "hayhooks", "_HAYHOOKS_COMPLETE").source())


def deployed_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list["CompletionItem"]:
    """The names in the pipelines directory that begin with *incomplete*; none if anything is wrong with it."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - as above

    from hayhooks.cli.names import names_in  # noqa: PLC0415 - as above
    from hayhooks.cli.options import settings_of  # noqa: PLC0415 - as above

    try:
        root: Path = settings_of({"pipelines_dir": context.params.get("pipelines_dir")}).pipelines_dir
        return [CompletionItem(name, help=kind) for name, kind in names_in(root).items() if name.startswith(incomplete)]
    except (OSError, click.ClickException):
        return []
