"""Greedy free-running continuations, many at once, token by token through the cache.

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
MOST_READ = 16_384  # tokens of a recital's windows that are in memory at once


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


def continuations(
    model: LanguageModel, windows: np.ndarray, k: int, correct: bool = False
) -> Continuations:
    """What greedy decoding says after the first `k` ids of windows (S, k + m), for m tokens. With
    `correct`, the true token takes the place of a wrong one before the model goes on."""
    ids = np.empty((len(windows), windows.shape[1] - k), np.int32)
    tie = np.empty(ids.shape, bool)
    for start in range(0, len(windows), TOGETHER):
        part = slice(start, start + TOGETHER)
        reader, fed = Reader(model), windows[part, :k]
        for position in range(ids.shape[1]):
            true = windows[part, k + position]
            token, even = reader.read(fed, true)
            ids[part, position], tie[part, position] = token, even
            fed = (true if correct else token)[:, None]
    return Continuations(ids, tie)


def recital(model: LanguageModel, ids: np.ndarray, k: int, correct: bool) -> Iterator[int]:
    """What the model says in place of ids[k], ids[k + 1], …

    With `correct`, the true token takes the place of a wrong one before the model goes on; else it
    goes on from what it said. Only true tokens are read then, so that no window waits for the one
    before: after the first one, which is said one id at a time, ever more of them share a pass.
    """
    half, context = Window(model).half, model.context
    end = (0 if k <= context else k - half) + context + 1 if correct else len(ids)
    reader, fed = Reader(model), ids[None, :k]
    for true in ids[k:end]:
        token, _ = reader.read(fed, np.array([true], np.int32))
        yield int(token[0])
        fed = np.array([[true if correct else token[0]]], np.int32)
    windows = [
        ids[s : s + context + 1] for s in range(end - half, len(ids) - half, context + 1 - half)
    ]
    together, most = 1, max(1, MOST_READ // context)
    while windows:
        alike = [window for window in windows[:together] if window.size == windows[0].size]
        yield from continuations(model, np.stack(alike), half, correct=True).ids.ravel().tolist()
        windows, together = windows[len(alike) :], min(2 * together, TOGETHER, most)
