"""`avow completion`: completion for shells, by click's own scripts."""

import click
from click.shell_completion import get_completion_class

from avow.cli.frame import put


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; source it in the shell's start-up file.

    \b
    bash:  avow completion bash > ~/.local/share/bash-completion/completions/avow
    zsh:   avow completion zsh > ~/.zfunc/_avow
    fish:  avow completion fish > ~/.config/fish/completions/avow.fish
    """  # noqa: D301 (click reads the backspace)
    from avow.cli import cli

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    put(found(cli, {}, "avow", "_AVOW_COMPLETE").source())
