"""`completion`: completion for the shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  eval "$(zmqgame-cli completion bash)"              in ~/.bashrc
    zsh:   eval "$(zmqgame-cli completion zsh)"               in ~/.zshrc
    fish:  zmqgame-cli completion fish | source               in ~/.config/fish/config.fish
    """
    from zmqgame.cli import cli

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "zmqgame-cli", "_ZMQGAME_CLI_COMPLETE").source())
