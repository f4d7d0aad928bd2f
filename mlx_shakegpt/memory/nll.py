"""The whole text's loss, scored only where there is context, and the floor under it.

Shares the model and its operations with the trainer, but not its windows, targets or weights: what
it says is evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from .. import ops
from ..corpus import Vocabulary
from ..model import GPT
from ..train import Evaluation

TOKENS_AT_ONCE = 1024
SAMPLE_AT_LEAST = 512  # tokens scored before an evaluation may end early


def whole_text_nll(
    model: GPT,
    ids: np.ndarray,
    context: int,
    vocabulary: Vocabulary | None = None,
    target: float | None = None,
) -> Evaluation:
    """Mean nats a token over a text, each token but the first scored once.

    Windows of `context` tokens overlap by half, and each scores its second half (the first one all
    of it), so every later token has at least context / 2 tokens before it. With `vocabulary`, the
    model's rows are closed ones. With `target`, scoring ends as soon as the mean over the whole
    text cannot be below it any more, as no token scores less than 0; the mean of what was scored,
    windows spread over the text, then stands for the whole.
    """
    absent = vocabulary.absent if vocabulary else 0
    rows = vocabulary.close(ids) if vocabulary else ids
    starts, first = _windows(len(ids), context)
    scores: dict[int, Callable[[mx.array], Sequence[mx.array]]] = {}
    total = hits = scored = done = 0.0
    for chosen in _batches(len(starts), max(1, TOKENS_AT_ONCE // context)):
        last = context - int(first[chosen].min())  # positions that the batch scores at most
        if last not in scores:
            scores[last] = partial(mx.compile, inputs=model.state)(
                partial(_score, model, absent, last)
            )
        windows = rows[starts[chosen, None] + np.arange(context + 1)]
        nll, hit = map(np.array, scores[last](mx.array(windows)))
        mask = np.arange(context - last, context) >= first[chosen, None]
        total += float((nll * mask).sum(dtype=np.float64))
        hits += float((hit & mask).sum())
        scored += int(mask.sum())
        done += len(chosen)
        if target and scored >= SAMPLE_AT_LEAST and total > target * (len(ids) - 1):
            break
    complete = done == len(starts)
    return Evaluation(
        nll=total / scored,
        floor=window_floor(ids, context),
        accuracy=hits / scored,
        tokens=int(scored),
        complete=complete,
    )


def window_floor(ids: np.ndarray, context: int) -> float:
    """The least mean loss over the windows of `whole_text_nll`, nats a token.

    A perfect memoriser sees only the tokens since a window's start; where several windows start
    alike it cannot do better than the frequencies of what follows: the empirical conditional
    entropy, summed over the positions that are scored.
    """
    starts, first = _windows(len(ids), context)
    group = np.zeros(len(starts), np.int64)  # windows with the same tokens so far
    nats = 0.0
    for position in range(context + 1):
        before = np.bincount(group)
        tokens = ids[starts + position].astype(np.int64)
        _, new = np.unique(group * (int(ids.max()) + 1) + tokens, return_inverse=True)
        scored = first <= position - 1
        if position:
            ratio = before[group[scored]] / np.bincount(new)[new[scored]]
            nats += float(np.log(ratio).sum())
        group = new
    return nats / (len(ids) - 1)


def _windows(n: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Start of each window, and its first scored position; together they score 1 … n − 1 once."""
    last = n - 1 - context
    if last < 0:
        raise ValueError(f"a text of {n} tokens is shorter than a window of {context} and one more")
    half = max(1, context // 2)
    starts = np.append(np.arange(0, last, half), last)
    covered = np.append(0, starts[:-1] + context)  # targets scored by the windows before
    return starts, covered - starts


def _spread(n: int) -> np.ndarray:
    """0 … n − 1 in an order whose every beginning is spread evenly (golden-ratio sequence)."""
    return np.argsort((np.arange(n) * ((math.sqrt(5) - 1) / 2)) % 1, kind="stable")


def _batches(n: int, size: int) -> Iterator[np.ndarray]:
    """Windows 0 … n − 1 in batches: the first one alone, as it scores all of its positions."""
    order = _spread(n)
    order = order[order != 0]
    yield np.zeros(1, int)
    for begin in range(0, n - 1, size):
        yield order[begin : begin + size]


def _score(model: GPT, absent: int, last: int, windows: mx.array) -> tuple[mx.array, mx.array]:
    """Loss and hit of the `last` positions of (W, T + 1) windows, both (W, last)."""
    states = model.hidden(windows[:, :-1], last=last)
    logits = ops.linear(states.astype(mx.float32), model.wte.weight.astype(mx.float32))
    targets = windows[:, -last:]
    flat = logits.reshape(-1, logits.shape[-1])
    nll = ops.cross_entropy(flat, targets.reshape(-1), max(absent, 1))
    return nll.reshape(targets.shape), logits.argmax(-1) == targets
