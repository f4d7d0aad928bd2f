"""Greedy continuations, many at once, and recitals, through the cache.

What is proven here comes from the model alone: nothing is looked up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..model.language_model import LanguageModel
from ..settings.sampling import Sampling
from .choosing import Chooser
from .window import Window

TOGETHER = 64  # continuations that share a pass


@dataclass(frozen=True)
class Continuations:
    """`ids` (S, m) int32, and `tie` (S, m): whether rounding could have made a right one wrong, or
    a wrong one right."""

    ids: np.ndarray
    tie: np.ndarray


class Reader:
    """A model that has read some texts of one length, (S, n), and says what is likeliest next."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._choose = model, Chooser(model, Sampling())
        self._window = Window(model)
        self._history = np.empty((0, 0), np.int32)

    def read(self, ids: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads on, ids (S, n); the likeliest next id (S,), and with ids `true` (S,) whether it is
        as good as a tie that it is right, or that it is wrong (S,)."""
        model, window = self._model, self._window
        self._history = np.concatenate([self._history, ids], 1) if self._history.size else ids
        if ids.shape[1] > window.room:
            window.clear()
            ids = self._history[:, -window.half :]
        self._history = self._history[:, -model.context :]
        logits = window.read(ids)
        chosen, firm = self._choose.ids(logits), self._choose.firm(logits)
        near = self._choose.near(logits, model.gpt.checked_ids(model.rows_of(true)))
        tie = mx.where(chosen == mx.array(true), ~firm, near)
        mx.eval(chosen, tie)
        return np.array(chosen).astype(np.int32), np.array(tie)


def continuations(model: LanguageModel, windows: np.ndarray, k: int) -> Continuations:
    """What greedy decoding says after the first `k` ids of windows (S, k + m), for m tokens."""
    ids = np.empty((len(windows), windows.shape[1] - k), np.int32)
    tie = np.empty(ids.shape, bool)
    for start in range(0, len(windows), TOGETHER):
        part = slice(start, start + TOGETHER)
        for position, step in enumerate(_steps(model, windows[part], k)):
            ids[part, position], tie[part, position] = step
    return Continuations(ids, tie)


def _steps(
    model: LanguageModel, windows: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What the model says after the first `k` ids of windows (S, k + m) and all that it said since:
    m times an id for each, (S,), and whether it is as good as a tie."""
    reader, fed = Reader(model), windows[:, :k]
    for position in range(k, windows.shape[1]):
        token, tie = reader.read(fed, windows[:, position])
        yield token, tie
        fed = token[:, None]


def recital(model: LanguageModel, ids: np.ndarray, k: int) -> Iterator[int]:
    """What the model says in place of ids[k], ids[k + 1], …, one id at a time, each after all that
    it said before."""
    for token, _ in _steps(model, ids[None], k):
        yield int(token[0])


def corrected_recital(model: LanguageModel, ids: np.ndarray, k: int) -> Iterator[int]:
    """As `recital`, where the true token takes the place of a wrong one before the model goes on.

    So only true tokens are ever read, and one pass gives all that is said in a window.
    """
    window, choose = Window(model), Chooser(model, Sampling())
    begin, end = (0 if k <= model.context else k - window.half), k
    while end < len(ids):
        first, end = end, min(begin + model.context + 1, len(ids))
        logits = window.read(ids[begin : end - 1], end - first)
        yield from np.array(choose.ids(logits)).tolist()
        window.clear()
        begin = end - window.half
