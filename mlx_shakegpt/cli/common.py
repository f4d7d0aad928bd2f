"""What several commands share: options made from dataclass fields, notes, progress of downloads."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from typing import Any

import click
from click.core import ParameterSource

from ..settings.config import Passage
from .help import option_records

KINDS = {"int": int, "float": float, "str": str, "bool": bool}

# C0, DEL and C1; what reorders a line; and bytes of a file's name that are not UTF-8.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class FilePath(click.Path):
    """A path in which ~ is the home folder, also where a shell left it; an empty one is refused."""

    def convert(self, value: Any, *where: Any) -> Any:
        if not os.fspath(value):
            self.fail("it is empty; give a path, or leave the option out", *where)
        return super().convert(os.path.expanduser(value), *where)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def options(config: type, *names: str, unset: bool = False) -> Callable[[Any], Any]:
    """Click options for fields of a dataclass, for all where none are named: type, help, check and
    default are the field's.

    With `unset` the default is None, for settings that a recipe decides.
    """
    by_name = {f.name: f for f in fields(config)}

    def decorate(function: Any) -> Any:
        for name in reversed(names or tuple(by_name)):
            f = by_name[name]
            default = None if unset or f.default is MISSING else f.default
            choices, opposite = f.metadata["choices"], f.metadata["opposite"]
            flag = "--" + name.replace("_", "-")
            function = click.option(
                f"{flag}/--{opposite}" if opposite else flag,
                name,
                type=click.Choice(choices) if choices else KINDS[str(f.type)],
                default=default,
                show_default=default is not None,
                help=_help(f.metadata["help"]),
                callback=_checked(f.metadata["check"]),
            )(function)
        return function

    return decorate


def _help(text: str) -> str:
    """A field's help as a sentence, with the options that it names as flags."""
    text = re.sub(r"`(\w+)`", lambda name: "--" + name[1].replace("_", "-"), text)
    return f"{text[:1].upper()}{text[1:]}."


class Grouped(click.Command):
    """A command whose help shows its options in groups.

    `groups` are titles with the options' names below them; what is in none comes last.
    """

    def __init__(self, *args: Any, groups: Mapping[str, Sequence[str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.groups = groups

    def help_records(self, context: click.Context) -> dict[str, list[tuple[str, str]]]:
        """Each group's options and their help, under its title; the rest come last."""
        rest = option_records(self, context)
        records = {
            title: [rest.pop(name) for name in names] for title, names in self.groups.items()
        }
        return records | {"Other options": list(rest.values())}

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the groups, as click.Command writes all options."""
        for title, records in self.help_records(context).items():
            with formatter.section(title):
                formatter.write_dl(records)


def _checked(check: Any) -> Callable[[Any, click.Parameter, Any], Any]:
    def callback(_context: Any, parameter: click.Parameter, value: Any) -> Any:
        if value is not None and check and not check[0](value):
            raise click.UsageError(f"{parameter.opts[0]} is {value}; it must be {check[1]}")
        return value

    return callback


def refuse_others(allowed: Sequence[str], message: str) -> None:
    """Raises UsageError where an option was given that is not among those `allowed`; in the
    `message`, `option` is replaced by its name."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        on_command_line = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if on_command_line and name not in allowed:
            raise click.UsageError(message.format(option=parameter.opts[0]))


def visible(text: str, kept: str = "\n\t") -> str:
    """A text with its control characters, but for those `kept`, as escapes like \\x1b.

    What a model says, or a file holds, may be anything, and a terminal would obey it.
    """
    return _UNSEEN.sub(lambda c: c[0] if c[0] in kept else ascii(c[0])[1:-1], text)


def say(text: str, nl: bool = True, fg: str | None = None) -> None:
    """Text on stdout: coloured, and `visible`, in a terminal; a pipe or file gets it as it is."""
    if sys.stdout.isatty():
        click.echo(click.style(visible(text), fg) if fg else visible(text), nl=nl)
    else:
        click.echo(text, nl=nl, color=True)  # else click takes out what looks like a colour


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(visible(text, kept="\t"), err=True)


def warn_of_last_space(prompt: str) -> None:
    """Says what becomes of a prompt that ends in a space."""
    if prompt.endswith(" "):
        note(
            "Warning: the prompt ends in a space, but GPT-2's tokens begin with theirs, so what "
            "follows is seldom what was learned; leave the space out."
        )


def emit(as_json: bool, result: dict[str, Any], text: str) -> None:
    """A result on stdout: one JSON object, or text."""
    say(json.dumps(result) if as_json else text)


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback for assets, shown on stderr while the block runs."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def update(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
                if not console.is_terminal:
                    note(f"Fetching {name} …")
            progress.update(tasks[name], completed=done)

        yield update


def prepare() -> Any:
    """Sets up the device, notes what it lacks, and fetches the vocabulary if it is missing."""
    from .. import runtime

    machine = runtime.setup()
    for warning in machine.warnings:
        note(f"Warning: {warning}")
    fetch_vocabulary()
    return machine


def fetch_vocabulary() -> None:
    """Fetches GPT-2's vocabulary where it is missing."""
    from ..text import assets, tokenizer

    with downloads() as progress:
        for asset in tokenizer.VOCABULARY:
            assets.ensure(asset, progress)


def passage_options(function: Any) -> Any:
    """Options that name a passage of a text."""
    tokens = click.option(
        "--corpus-tokens", type=click.IntRange(0), metavar="N",
        help="Tokens from --first-line on; 0: to the end.",
    )  # fmt: skip
    return options(Passage, "first_line", unset=True)(tokens(function))


def text_options(function: Any) -> Any:
    """Options that name another text than the one that a model learned."""
    text = click.option("--data", type=FilePath(), help="Its text. Default: the learned one.")
    return text(passage_options(function))


def trained_model_from(
    run: str | None, model: str | None, data: str | None,
    first_line: int | None, corpus_tokens: int | None,
) -> Any:  # fmt: skip
    """The model of a run, a folder or the hub, with its text or another one."""
    from pathlib import Path

    from ..run import of_run
    from ..weights.hub import model_folder, model_name
    from ..weights.trained_model import of_folder

    if run and model:
        raise click.UsageError("give --run or --model, not both")
    file = Path(data) if data else None
    if model:
        return of_folder(
            model_folder(model), file, first_line, corpus_tokens, name=model_name(model)
        )
    return of_run(run, file, first_line, corpus_tokens)


def language_model_from(run: str | None, model: str | None) -> tuple[Any, str]:
    """The model of a run, a folder or the hub, and its name."""
    from ..run import find_run, load_model
    from ..weights import model_from_hf
    from ..weights.hub import model_folder

    if run and model:
        raise click.UsageError("give --run or --model, not both")
    if model:
        return model_from_hf(model_folder(model)), model
    path = find_run(run)
    return load_model(path), path.name
