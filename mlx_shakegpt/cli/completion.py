"""`completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh")


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Prints a script for bash or zsh, for ~/.bashrc: eval "$(shakegpt completion bash)"."""
    completion = get_completion_class(shell)
    assert completion is not None
    program = context.find_root().command
    click.echo(completion(program, {}, "shakegpt", "_SHAKEGPT_COMPLETE").source())
