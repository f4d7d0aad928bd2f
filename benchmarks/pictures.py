"""Draws what a terminal shows while a run speaks, as an SVG: the picture in the README.

    python benchmarks/pictures.py [COMMAND …] [--run NAME] [--to docs/terminal.svg]

Each COMMAND is one of the program's, such as 'generate "ROMEO:" --mark'. It runs in a terminal of
its own, so the picture has the real output, colours included.
"""

import errno
import io
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
from common import ROOT
from rich.console import Console
from rich.text import Text

COMMANDS = (
    'generate "ROMEO:" --mark --max-tokens 80',
    'generate "Shall I compare thee to a summer\'s day?" --mark --max-tokens 48',
)
WIDTH = 92  # columns
# What moves the cursor or hides it; colours end in m and stay.
_CURSOR = re.compile(r"\x1b\[[?0-9;]*[A-Za-ln-z]|\r")
# rich asks a web server for its font, which a picture on a page may not do.
_WEB_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
_FONTS = "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"


def shown(command: str) -> str:
    """Everything that one command of the program writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    arguments = [sys.executable, str(ROOT / "cli.py"), *shlex.split(command)]
    with subprocess.Popen(
        arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while block := os.read(ours, 1 << 16):
                written += block
        except OSError as error:
            if error.errno != errno.EIO:  # Linux's word for a terminal that was closed
                raise
    os.close(ours)
    text = _CURSOR.sub("", written.decode())
    if process.returncode:
        raise SystemExit(f"Error: {command} ended with {process.returncode}: {text.strip()}")
    return text


def picture(commands: tuple[str, ...]) -> str:
    """An SVG of a terminal in which the commands were given one after the other."""
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    for number, command in enumerate(commands):
        if number:
            console.print()
        console.print(Text.assemble(("$ ", "dim"), (f"python cli.py {command}", "bold")))
        console.print(Text.from_ansi(shown(command).rstrip("\n")))
    svg = console.export_svg(title="mlx-shakegpt", unique_id="terminal")
    return _WEB_FONT.sub("", svg).replace("Fira Code, monospace", _FONTS)


@click.command()
@click.argument("commands", metavar="[COMMAND …]", nargs=-1)
@click.option("--run", help="Run to speak; else the one trained last.")
@click.option("--to", "target", default="docs/terminal.svg", show_default=True)
def main(commands: tuple[str, ...], run: str | None, target: str) -> None:
    commands = commands or COMMANDS
    if run:
        commands = tuple(f"{command} --run {shlex.quote(run)}" for command in commands)
    Path(target).write_text(picture(commands), encoding="utf-8")
    click.echo(f"{target} shows {len(commands)} commands.")


if __name__ == "__main__":
    main()
