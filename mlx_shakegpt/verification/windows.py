"""The windows that score a whole text, each token once, and the least loss that they allow."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def scoring_windows(n: int, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Start of each window, and its first scored position; together they score 1 … n − 1 once."""
    last = n - 1 - context
    if last < 0:
        raise ValueError(f"a text of {n} tokens is shorter than a window of {context} and one more")
    half = max(1, context // 2)
    starts = np.append(np.arange(0, last, half), last)
    covered = np.append(0, starts[:-1] + context)  # targets scored by the windows before
    return starts, covered - starts


def window_floor(ids: np.ndarray, context: int) -> float:
    """The least mean loss over the windows that score a text, nats a token.

    A perfect memoriser sees only the tokens since a window's start; where several windows start
    alike it cannot do better than the frequencies of what follows: the empirical conditional
    entropy, summed over the positions that are scored.
    """
    starts, first = scoring_windows(len(ids), context)
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


def spread_order(n: int) -> np.ndarray:
    """0 … n − 1 in an order whose every beginning is spread evenly (golden-ratio sequence)."""
    return np.argsort((np.arange(n) * ((math.sqrt(5) - 1) / 2)) % 1, kind="stable")


def window_batches(n: int, context: int, tokens: int) -> list[np.ndarray]:
    """The windows of a text of `n` tokens, in batches of some `tokens`, spread over it."""
    return list(_batches(len(scoring_windows(n, context)[0]), max(1, tokens // context)))


def _batches(n: int, size: int) -> Iterator[np.ndarray]:
    """Windows 0 … n − 1 in batches of nearly one size, and then the first window alone, as it
    scores all of its positions; an even number of batches, for two streams."""
    order = spread_order(n)
    order = order[order != 0]
    if len(order):
        yield from np.array_split(order, min(len(order), math.ceil(len(order) / size) | 1))
    yield np.zeros(1, int)
