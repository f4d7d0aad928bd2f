"""The library's messages in the command line's words: its flags, and the program's name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click


def program() -> str:
    """How the user calls this program: "python cli.py", or the installed "shakegpt"."""
    return "python cli.py" if Path(sys.argv[0]).name == "cli.py" else "shakegpt"


def spoken(message: str, app: click.Group) -> str:
    """`message` with each setting in backquotes as the flag of that name, and each function as the
    command of that name. A switch may have its value: `closed_vocab` False is --full-vocab."""
    flags: dict[tuple[str, str], str] = {}
    for command in app.commands.values():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                name, flag = str(parameter.name), parameter.opts[-1]
                flags[name, ""] = flag
                if parameter.is_flag:
                    flags[name, " True"] = flag
                    flags[name, " False"] = (parameter.secondary_opts or [f"no {flag}"])[-1]

    def typed(match: re.Match[str]) -> str:
        name, call, value = match[1], match[2], match[3] or ""
        if call:
            return f"{program()} {name}" if name in app.commands else match[0]
        if (name, value) in flags:
            return flags[name, value]
        return flags[name, ""] + value if (name, "") in flags else match[0]

    return re.sub(r"`(\w+)(\(\))?`( True| False)?", typed, message)
