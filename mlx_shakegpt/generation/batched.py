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
    """What the model says in place of ids[k], ids[k + 1], …, one id at a time.

    With `correct`, the true token takes the place of a wrong one before the model goes on; else it
    goes on from what it said.
    """
    if correct:
        yield from _corrected(model, ids, k)
        return
    reader, fed = Reader(model), ids[None, :k]
    for true in ids[k:]:
        token, _ = reader.read(fed, np.array([true], np.int32))
        yield int(token[0])
        fed = token[:, None]


def _corrected(model: LanguageModel, ids: np.ndarray, k: int) -> Iterator[int]:
    """As `recital` with `correct`. Only true tokens are ever read, so no window waits for the one
    before: one alone, to speak at once, then twice as many together each time."""
    windows, together = _windows(ids, k, model.context, Window(model).half), 1
    while windows:
        size, prompt = windows[0][0].size, windows[0][1]
        alike = [window for window, n in windows[:together] if (window.size, n) == (size, prompt)]
        said = continuations(model, np.stack(alike), prompt, correct=True)
        yield from said.ids.ravel().tolist()
        windows, together = windows[len(alike) :], min(2 * together, TOGETHER)


def _windows(ids: np.ndarray, k: int, context: int, half: int) -> list[tuple[np.ndarray, int]]:
    """The windows in which a Reader says ids[k:], each with the number of ids that it begins with;
    all but the first and the last are alike."""
    windows, begin, said = [], 0 if k <= context else k - half, k
    while said < len(ids):
        end = begin + context + 1
        windows.append((ids[begin:end], said - begin))
        begin, said = end - half, end
    return windows
