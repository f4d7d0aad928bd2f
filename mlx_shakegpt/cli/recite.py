"""`recite`: the model says its text from the beginning, beside the original."""

from __future__ import annotations

import time
from typing import Any

import click

from .common import (
    FilePath,
    emit,
    json_option,
    note,
    prepare,
    say,
    text_options,
    trained_model_from,
)
from .long import Parts, awake


@click.command("recite")
@click.option("--run", help="Run to recite. Default: the one trained last.")
@click.option("--model", type=FilePath(), help="Folder or hub id to recite instead of a run.")
@text_options
@click.option(
    "--from", "line", type=click.IntRange(1), metavar="LINE",
    help="Line of the text to start from.",
)  # fmt: skip
@click.option(
    "--tokens", type=click.IntRange(1), metavar="N",
    help="Tokens to recite. Default: to the text's end.",
)  # fmt: skip
@click.option(
    "--prompt-tokens", type=click.IntRange(1), metavar="N", default=32, show_default=True,
    help="Tokens of the text to prompt with.",
)  # fmt: skip
@click.option(
    "--on-error", type=click.Choice(["correct", "stop", "go-on"]), default="correct",
    show_default=True, help="After a wrong token: correct it, stop, or go on from it.",
)  # fmt: skip
@json_option
def command(
    run: str | None, model: str | None, data: str | None, first_line: int | None,
    corpus_tokens: int | None, line: int | None, tokens: int | None, prompt_tokens: int,
    on_error: str, as_json: bool,
) -> None:  # fmt: skip
    """Recites the learned text, greedily and without looking anything up.

    Wrong words are shown in red, with the right ones behind them in brackets.
    """
    prepare()
    from ..text import tokenizer
    from ..text.lines import start_at
    from ..verification.recital import Recital

    trained = trained_model_from(run, model, data, first_line, corpus_tokens)
    ids, passage = trained.corpus.ids, trained.corpus.passage
    start = start_at(ids, passage.first_line, line or passage.first_line)
    recital = Recital(ids[start:], prompt_tokens, tokens, on_error)
    started = time.perf_counter()
    shown, parts = not as_json, Parts()
    if shown:
        say(tokenizer.decode(recital.prompt), nl=False)
    with awake():
        for piece in recital.pieces(trained.language_model):
            if not shown:
                if recital.share < 1:  # the figures tell the end
                    parts("recited", recital.share)
                continue
            say(piece.text, nl=False, fg="red" if piece.wrong else None)
            if piece.right:
                say(f"[{piece.right}]", nl=False, fg="green")
    seconds = time.perf_counter() - started
    figures: dict[str, Any] = recital.figures() | {
        "model": trained.name,
        "tokens_per_second": round(recital.count / seconds, 2),
        "pages_per_minute": round(recital.words() / 250 / seconds * 60, 2),
    }
    if shown:
        say("")
    emit(as_json, figures, "")
    note(
        f"{figures['tokens']:,} tokens, {figures['wrong']} of them wrong; "
        f"{figures['before_first_error']:.4f} before the first error; "
        f"{figures['re_prompts']} re-prompts; likeness {figures['likeness']:.6f}; "
        f"{figures['pages_per_minute']:.1f} pages a minute"
    )
