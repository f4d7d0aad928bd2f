"""`generate`: streams a prompt and what the model says after it."""

from __future__ import annotations

import time
from typing import Any

import click

from ..sampling import Sampling
from .common import emit, json_option, note, options, prepare, speaker_from


@click.command("generate")
@click.argument("prompt")
@click.option("--run", help="Run to speak; else the one trained last.")
@click.option("--model", type=click.Path(), help="Exported folder to speak instead of a run.")
@click.option("--max-tokens", type=click.IntRange(1), default=200, show_default=True)
@options(Sampling, "temperature", "top_k", "top_p", "min_p", "seed")
@click.option(
    "--lookup/--no-lookup",
    default=True,
    show_default=True,
    help="Check several tokens of the learned text at once where the last ones stand in it.",
)
@click.option("--stats", is_flag=True, help="Print speed and accepted guesses to stderr.")
@json_option
def command(
    prompt: str, run: str | None, model: str | None, max_tokens: int, lookup: bool, stats: bool,
    as_json: bool, **sampling: Any,
) -> None:  # fmt: skip
    """Streams PROMPT and its continuation."""
    if not prompt:
        raise click.UsageError("PROMPT is empty; give some text to go on from, like 'ROMEO:'")
    prepare()
    from .. import tokenizer
    from ..generate import stream

    speaker, name = speaker_from(run, model)
    guesses = _guesses(run, model) if lookup else None
    ids = tokenizer.encode(prompt)
    if prompt.endswith(" "):
        note(
            "Warning: the prompt ends in a space, but GPT-2's tokens begin with theirs, so what "
            "follows is seldom what was learned; leave the space out."
        )
    started = time.perf_counter()
    made: list[int] = []

    def counted() -> Any:
        for token in stream(speaker, ids, max_tokens, Sampling(**sampling), guesses):
            made.append(token)
            yield token

    if not as_json:
        click.echo(prompt, nl=False)
    pieces = []
    for piece in tokenizer.decode_stream(counted()):
        pieces.append(piece)
        if piece and not as_json:
            click.echo(piece, nl=False)
    seconds = time.perf_counter() - started
    rate = len(made) / seconds
    result = {
        "model": name,
        "prompt": prompt,
        "text": "".join(pieces),
        "ids": made,
        "tokens": len(made),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(rate, 2),
    }
    if guesses:
        counts = {"passes": guesses.passes, "proposed": guesses.proposed}
        result |= counts | {"accepted": guesses.accepted}
    emit(as_json, result, "")
    if stats:
        note(f"{len(made)} tokens in {seconds:.2f} s: {rate:.1f} tokens/s")
        if guesses:
            note(
                f"{guesses.accepted} of {guesses.proposed} looked-up tokens accepted, "
                f"{guesses.passes} passes of the model"
            )


def _guesses(run: str | None, model: str | None) -> Any:
    """A look-up in the text that the run learned; for a folder, in Tiny Shakespeare if at hand.

    Any text is safe, as guesses change the speed alone; so one that is gone is no error.
    """
    from .. import assets
    from ..config import Passage
    from ..corpus import Corpus
    from ..lookup import Lookup
    from ..run import find_run, load_corpus

    try:
        if not model:
            return Lookup(load_corpus(find_run(run)).ids)
        if assets.TINY_SHAKESPEARE.file.exists():
            return Lookup(Corpus.load(None, Passage()).ids)
    except ValueError as error:
        note(f"Warning: {error}. Going on without look-up.")
    return None
