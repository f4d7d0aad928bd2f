"""How help is shown: commands in the order in which one meets them, in whole sentences."""

from __future__ import annotations

import inspect

import click


class CommandList(click.Group):
    """A group whose help lists its commands as they were added, each with its first paragraph;
    click's own sorts them by name, and cuts each off at the end of a line."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names, in the order of the list."""
        return list(self.commands)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list."""
        entries = [(name, summary(command)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(entries)


def summary(command: click.Command) -> str:
    """The first paragraph of a command's description, on one line."""
    return " ".join(inspect.cleandoc(command.help or "").partition("\n\n")[0].split())


def option_records(command: click.Command, context: click.Context) -> dict[str, tuple[str, str]]:
    """Each option of a command as its help shows it, by name; arguments have no meaning there."""
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    return {str(p.name): record for p in options if (record := p.get_help_record(context))}
