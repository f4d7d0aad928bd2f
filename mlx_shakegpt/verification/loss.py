"""The whole text's loss, scored only where there is context.

Shares the model and its operations with the trainer, but not its windows, targets or weights: what
it says is evidence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from ..model import ops
from ..model.gpt import GPT
from ..runtime import on_gpu, parallel_streams
from ..runtime.ranks import ALONE, Ranks
from ..text.vocabulary import Vocabulary
from .windows import scoring_windows, window_batches, window_floor

Progress = Callable[[float], None]  # is told which share of some work is done

TOKENS_AT_ONCE = 1024
SAMPLE_AT_LEAST = 512  # tokens scored before an evaluation may end early


@dataclass(frozen=True)
class Scores:
    """Of tokens in a text: `nll` in nats, float32, and `hit`, whether each is the likeliest."""

    nll: np.ndarray
    hit: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """How well the whole text is predicted, in nats a token, where there is context."""

    nll: float
    floor: float  # what a perfect memoriser would score with the same windows
    accuracy: float  # share of tokens whose most likely prediction is right, teacher-forced
    tokens: int  # scored; fewer than the text has where the target was out of reach by then
    complete: bool
    extracted: float | None = None  # share of a sample's offsets, where that was asked for
    known: bool = False  # the sample counts as the whole text known by heart


def whole_text_nll(
    model: GPT,
    ids: np.ndarray,
    context: int,
    vocabulary: Vocabulary | None = None,
    target: float | None = None,
    ranks: Ranks = ALONE,
    limit: int | None = None,
) -> Evaluation:
    """Mean nats a token over a text, each token but the first scored once.

    Windows of `context` tokens overlap by half, and each scores its second half (the first one all
    of it), so every later token has at least context / 2 tokens before it. With `vocabulary`, the
    model's rows are closed ones. With `target`, scoring ends as soon as the mean over the whole
    text cannot be below it any more, as no token scores less than 0; the mean of what was scored,
    windows spread over the text, then stands for the whole; so it does where scoring ends at a
    `limit` of tokens. `ranks` share the windows.
    """
    total = hits = scored = 0.0
    rounds = -(-len(window_batches(len(ids), context, TOKENS_AT_ONCE)) // ranks.size)
    mine = _scored_windows(model, ids, context, vocabulary, ranks.rank, ranks.size)
    for _ in range(rounds):
        for nll, hit, count in ranks.gather(_sums(next(mine, None))):
            total, hits, scored = total + nll, hits + hit, scored + count
        if target and scored >= SAMPLE_AT_LEAST and total > target * (len(ids) - 1):
            break
        if limit and scored >= limit:
            break
    return Evaluation(
        nll=total / scored,
        floor=window_floor(ids, context),
        accuracy=hits / scored,
        tokens=int(scored),
        complete=scored == len(ids) - 1,
    )


def _sums(scored: tuple[np.ndarray, Scores] | None) -> list[float]:
    if scored is None:  # a last round has not always windows for all ranks
        return [0.0, 0.0, 0]
    _, scores = scored
    nll, hit = scores.nll.sum(dtype=np.float64), scores.hit.sum()
    return [float(nll), float(hit), len(scores.nll)]


def token_scores(
    model: GPT,
    ids: np.ndarray,
    context: int,
    vocabulary: Vocabulary | None = None,
    progress: Progress = lambda share: None,
) -> Scores:
    """The scores, (N − 1,), of all tokens but the first, in the windows of `whole_text_nll`."""
    nll, hit = np.empty(len(ids) - 1, np.float32), np.empty(len(ids) - 1, bool)
    scored = 0
    for targets, scores in _scored_windows(model, ids, context, vocabulary):
        nll[targets - 1], hit[targets - 1] = scores.nll, scores.hit
        scored += len(targets)
        progress(scored / len(nll))
    return Scores(nll, hit)


def window_scores(
    model: GPT,
    windows: np.ndarray,
    last: int,
    vocabulary: Vocabulary | None = None,
    progress: Progress = lambda share: None,
) -> Scores:
    """The scores, (W, last), of the last tokens of windows (W, T + 1) of ids."""
    row_ids = vocabulary.rows_of(windows) if vocabulary else windows
    size = max(1, TOKENS_AT_ONCE // (windows.shape[1] - 1))
    batches = ((last, row_ids[i : i + size]) for i in range(0, len(row_ids), size))
    parts, scored = [], 0
    for part in _computed(model, vocabulary.absent if vocabulary else 0, batches):
        parts.append(part)
        scored += len(part.nll)
        progress(scored / len(windows))
    return Scores(
        np.concatenate([part.nll for part in parts]), np.concatenate([part.hit for part in parts])
    )


def _scored_windows(
    model: GPT,
    ids: np.ndarray,
    context: int,
    vocabulary: Vocabulary | None,
    offset: int = 0,
    stride: int = 1,
) -> Iterator[tuple[np.ndarray, Scores]]:
    """Places in the text, (n,), and their scores, window after window, spread over the text;
    those of every `stride`-th batch from `offset` on."""
    row_ids = vocabulary.rows_of(ids) if vocabulary else ids
    starts, first = scoring_windows(len(ids), context)
    chosen = window_batches(len(ids), context, TOKENS_AT_ONCE)[offset::stride]
    lengths = [context - int(first[part].min()) for part in chosen]  # scored positions, at most
    batches = (
        (last, row_ids[starts[part, None] + np.arange(context + 1)])
        for part, last in zip(chosen, lengths, strict=True)
    )
    scored = _computed(model, vocabulary.absent if vocabulary else 0, batches)
    for part, last, scores in zip(chosen, lengths, scored, strict=True):
        positions = np.broadcast_to(np.arange(context - last, context), scores.nll.shape)
        mask = positions >= first[part, None]
        yield (starts[part, None] + positions + 1)[mask], Scores(scores.nll[mask], scores.hit[mask])


def _computed(
    model: GPT, absent: int, batches: Iterator[tuple[int, np.ndarray]]
) -> Iterator[Scores]:
    """The scores, (W, last), of batches (last, windows (W, T + 1) of rows), some at a time."""
    streams = parallel_streams()
    compiled: dict[tuple[int, int], Callable[[mx.array], tuple[mx.array, mx.array]]] = {}
    waiting: list[tuple[mx.array, mx.array]] = []
    while group := list(itertools.islice(batches, len(streams))):
        results = []
        for index, (last, windows) in enumerate(group):
            with mx.stream(streams[index]):
                if (index, last) not in compiled:
                    compiled[index, last] = partial(mx.compile, inputs=model.state)(
                        partial(_score, model, absent, last)
                    )
                results.append(compiled[index, last](model.checked_ids(windows)))
        if on_gpu():  # which goes on with these while the last ones are read
            mx.async_eval(results)
            results, waiting = waiting, results
        yield from _read(results)
    yield from _read(waiting)


def _read(results: Sequence[tuple[mx.array, mx.array]]) -> Iterator[Scores]:
    mx.eval(*results)  # on a CPU both streams in one call
    for nll, hit in results:
        yield Scores(np.array(nll), np.array(hit))


def _score(model: GPT, absent: int, last: int, windows: mx.array) -> tuple[mx.array, mx.array]:
    """Loss and hit of the `last` positions of (W, T + 1) windows, both (W, last)."""
    states = model.hidden(windows[:, :-1], last=last)
    logits = ops.linear(states.astype(mx.float32), model.wte.weight.astype(mx.float32))
    targets = windows[:, -last:]
    flat = logits.reshape(-1, logits.shape[-1])
    nll = ops.cross_entropy(flat, targets.reshape(-1), max(absent, 1))
    best = logits.argmax(-1)
    # The shared row stands for many ids of equal logit: none of them is the likeliest.
    hit = best == targets
    if absent > 1:
        hit = hit & (best < logits.shape[-1] - 1)
    return nll.reshape(targets.shape), hit
