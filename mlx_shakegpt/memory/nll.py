"""The whole text's loss, scored only where there is context, and the floor under it.

Shares no code with the trainer's loss: what it says is evidence.
"""

from __future__ import annotations

import math
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
    order = _spread(len(starts))
    at_once = max(1, TOKENS_AT_ONCE // context)
    score = partial(mx.compile, inputs=model.state)(partial(_score, model, absent))
    total = hits = scored = 0.0
    for begin in range(0, len(order), at_once):
        chosen = order[begin : begin + at_once]
        windows = rows[starts[chosen, None] + np.arange(context + 1)]
        nll, hit = map(np.array, score(mx.array(windows)))
        mask = np.arange(context) >= first[chosen, None]
        total += float((nll * mask).sum(dtype=np.float64))
        hits += float((hit & mask).sum())
        scored += int(mask.sum())
        done = begin + len(chosen)
        if target and scored >= SAMPLE_AT_LEAST and total > target * (len(ids) - 1):
            break
    complete = done == len(order)
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


def _score(model: GPT, absent: int, windows: mx.array) -> tuple[mx.array, mx.array]:
    """Loss and hit of each position of (W, T + 1) windows, both (W, T)."""
    states, wte = model.hidden(windows[:, :-1]), model.wte.weight
    logits = ops.linear(states.astype(mx.float32), wte.astype(mx.float32))
    targets = windows[:, 1:]
    own = mx.take_along_axis(logits, targets[..., None], axis=-1).squeeze(-1)
    hit = logits.argmax(-1) == targets
    if absent > 1:
        last = mx.arange(logits.shape[-1]) == logits.shape[-1] - 1
        logits = logits + mx.where(last, math.log(absent), 0.0)
    return mx.logsumexp(logits, axis=-1) - own, hit
