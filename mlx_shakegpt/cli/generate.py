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
@click.option("--stats", is_flag=True, help="Print tokens a second to stderr at the end.")
@json_option
def command(
    prompt: str, run: str | None, model: str | None, max_tokens: int, stats: bool, as_json: bool,
    **sampling: Any,
) -> None:  # fmt: skip
    """Streams PROMPT and its continuation."""
    if not prompt:
        raise click.UsageError("PROMPT is empty; give some text to go on from, like 'ROMEO:'")
    prepare()
    from .. import tokenizer
    from ..generate import stream

    speaker, name = speaker_from(run, model)
    ids = tokenizer.encode(prompt)
    if prompt.endswith(" "):
        note(
            "Warning: the prompt ends in a space, but GPT-2's tokens begin with theirs, so what "
            "follows is seldom what was learned; leave the space out."
        )
    started = time.perf_counter()
    made: list[int] = []

    def counted() -> Any:
        for token in stream(speaker, ids, max_tokens, Sampling(**sampling)):
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
    emit(as_json, result, "")
    if stats:
        note(f"{len(made)} tokens in {seconds:.2f} s: {rate:.1f} tokens/s")
