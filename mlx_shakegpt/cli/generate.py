"""`generate`: streams a prompt and what the model says after it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import click

from ..files import as_text
from ..settings.sampling import Sampling
from .common import (
    FilePath,
    Grouped,
    emit,
    json_option,
    language_model_from,
    note,
    options,
    prepare,
    say,
    warn_of_last_space,
)

GROUPS = {
    "Model": ("run", "model"),
    "Continuation": ("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "lookup"),
    "Output": ("mark", "stats", "as_json"),
}


@click.command("generate", cls=Grouped, groups=GROUPS)
@click.argument("prompt")
@click.option("--run", help="Run to generate from. Default: the one trained last.")
@click.option(
    "--model", type=FilePath(), help="Folder or hub id to generate from instead of a run."
)
@click.option(
    "--max-tokens", type=click.IntRange(1), metavar="N", default=200, show_default=True,
    help="Maximum number of tokens to add to the prompt.",
)  # fmt: skip
@options(Sampling, "temperature", "top_k", "top_p", "min_p", "seed")
@click.option(
    "--lookup/--no-lookup",
    default=True,
    show_default=True,
    help="Go faster by checking several tokens of the learned text at once.",
)
@click.option("--stats", is_flag=True, help="Print speed and accepted guesses to stderr.")
@click.option(
    "--mark", is_flag=True,
    help="Highlight what is in the learned text word for word, and name the lines.",
)  # fmt: skip
@json_option
def command(
    prompt: str, run: str | None, model: str | None, max_tokens: int, lookup: bool, stats: bool,
    mark: bool, as_json: bool, **sampling: Any,
) -> None:  # fmt: skip
    """Streams PROMPT and its continuation."""
    if not prompt:
        raise click.UsageError("PROMPT is empty; give some text to go on from, like 'ROMEO:'")
    prepare()
    from ..generation.decoding import stream
    from ..generation.lookup import Lookup
    from ..run import find_run
    from ..text import tokenizer

    if not (run or model):  # once: while others train, the last one changes
        run = find_run(None).name
    language_model, name = language_model_from(run, model)
    learned = _learned(run, model) if lookup or mark else None
    guesses = Lookup(learned.ids) if lookup and learned else None
    if mark and not learned:
        raise ValueError("the learned text is not at hand; without it nothing can be marked")
    prompt = as_text(prompt)
    ids = tokenizer.encode(prompt)
    warn_of_last_space(prompt)
    started = time.perf_counter()
    made: list[int] = []

    def counted() -> Any:
        for token in stream(language_model, ids, max_tokens, Sampling(**sampling), guesses):
            made.append(token)
            yield token

    streamed = not as_json and not mark  # what is to be marked is shown when it is whole
    if streamed:
        say(prompt, nl=False)
    pieces = []
    for piece in tokenizer.decode_stream(counted()):
        pieces.append(piece)
        if piece and streamed:
            say(piece, nl=False)
    seconds = time.perf_counter() - started
    rate = len(made) / seconds
    text = "".join(pieces)
    result: dict[str, Any] = {
        "model": name,
        "prompt": prompt,
        "text": text,
        "ids": made,
        "tokens": len(made),
        "seconds": round(seconds, 3),
        "tokens_per_second": round(rate, 2),
    }
    if guesses:
        counts = {"passes": guesses.passes, "proposed": guesses.proposed}
        result |= counts | {"accepted": guesses.accepted}
    if mark:
        result["known"] = _mark(prompt, text, learned, as_json)
    emit(as_json, result, "")
    if mark:
        note(_places(result["known"]))
    if stats:
        note(f"{len(made)} tokens in {seconds:.2f} s: {rate:.1f} tokens/s")
        if guesses:
            note(
                f"{guesses.accepted} of {guesses.proposed} looked-up tokens accepted, "
                f"{guesses.passes} passes of the model"
            )


def _learned(run: str | None, model: str | None) -> Any:
    """The text that a model learned, if at hand; for a folder that does not tell, Tiny Shakespeare.

    For guesses any text is safe, as they change the speed alone; so one that is gone is no error.
    """
    from ..run import find_run, load_corpus
    from ..settings.config import Passage
    from ..text import assets
    from ..text.corpus import Corpus
    from ..weights import learned_text
    from ..weights.hub import model_folder

    try:
        if not model:
            return load_corpus(find_run(run))
        if assets.TINY_SHAKESPEARE.file.exists():
            description = learned_text(model_folder(model))
            if description is None:
                return Corpus.load(None, Passage())
            if description["sha256"] == assets.TINY_SHAKESPEARE.sha256:
                return Corpus.load(None, Passage(description["first_line"], description["tokens"]))
    except ValueError as error:
        note(f"Warning: {error}. Going on without look-up.")
    return None


def _mark(prompt: str, text: str, learned: Any, quiet: bool) -> dict[str, Any]:
    """Shows a text with its known spans in colour; returns where they stand, and the figures."""
    from ..text import tokenizer
    from ..text.quotations import Source, covered, longest, pieces

    source = Source(tokenizer.decode(learned.ids.tolist()), learned.passage.first_line)
    whole = prompt + text
    spans = source.spans(whole)
    if not quiet:
        for piece, known in pieces(whole, spans):
            say(piece, nl=False, fg="green" if known else None)
    return {
        "share": covered(spans, whole),
        "longest_words": longest(spans),
        "spans": [asdict(span) for span in spans],
    }


def _places(known: dict[str, Any]) -> str:
    """What `_mark` measured, as a line."""
    spans = known["spans"]
    places = ", ".join(f"line {span['line']} ({span['words']} words)" for span in spans) or "none"
    return (
        f"Known word for word: {known['share']:.1%}; longest {known['longest_words']} words; "
        f"spans in order: {places}"
    )
