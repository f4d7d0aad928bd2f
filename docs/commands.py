"""Writes docs/commands.md from the commands themselves, as `--help` shows them.

    python docs/commands.py

A test compares the page with `page()`, so that the two cannot drift apart.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import click

from mlx_shakegpt.cli import app
from mlx_shakegpt.cli.common import Grouped
from mlx_shakegpt.cli.help import option_records, summary

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Written by `python docs/commands.py` from the commands' own help; change that, not this page.
`python cli.py COMMAND` and the installed `shakegpt COMMAND` are the same.
[Exit codes and output](guide.md#exit-codes-and-output) are the same for all of them.
"""


def page() -> str:
    """The whole page: a table of the commands, and a section for each."""
    commands = app.commands.items()
    table = ["| command | what it does |", "|---|---|"]
    table += [f"| [`{name}`](#{name}) | {summary(command)} |" for name, command in commands]
    sections = [_section(name, command) for name, command in commands]
    return "\n".join([HEAD, *table, "", "\n".join(sections)])


def _paragraphs(command: click.Command) -> list[str]:
    """A command's description, each paragraph on one line."""
    return [" ".join(p.split()) for p in inspect.cleandoc(command.help or "").split("\n\n")]


def _section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"python cli.py {name}", terminal_width=100)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## {name}", "", "```text", usage, "```", ""]
    lines += ["\n\n".join(_paragraphs(command)), ""]
    for title, records in _records(command, context).items():
        lines += [f"| {title} | {'meaning' if title == 'option' else ''} |", "|---|---|"]
        for record in records:
            option, meaning = (cell.replace("|", "\\|") for cell in record)
            lines.append(f"| `{option}` | {' '.join(meaning.split())} |")
        lines.append("")
    return "\n".join(lines)


def _records(command: click.Command, context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Options and their help under the titles of their groups, without --help."""
    if isinstance(command, Grouped):
        groups = command.help_records(context)
    else:
        groups = {"option": list(option_records(command, context).values())}
    groups = {
        title: [record for record in records if not record[0].endswith("--help")]
        for title, records in groups.items()
    }
    return {title: records for title, records in groups.items() if records}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
