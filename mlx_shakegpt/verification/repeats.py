"""Where a text repeats itself, and which continuations of some tokens it has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Repeats:
    """The places of a text that begin with the same k tokens, and the m that follow them there.

    `group` (offsets,) is the same number where the k tokens are; `ambiguous` (offsets,) says where
    the text has other m tokens after them elsewhere, so that nobody could tell which are meant.
    """

    ids: np.ndarray
    k: int
    m: int
    group: np.ndarray
    ambiguous: np.ndarray

    @classmethod
    def of(cls, ids: np.ndarray, k: int, m: int) -> Repeats:
        """The repeats of a text of k + m tokens or more."""
        whole = alike(ids, k + m)
        group = alike(ids, k)[: len(whole)]
        _, first = np.unique(whole, return_index=True)  # a place of each distinct window
        ambiguous = np.bincount(group[first], minlength=len(ids))[group] > 1
        return cls(ids, k, m, group, ambiguous)

    def has(self, offset: int, continuation: np.ndarray) -> bool:
        """Whether the k tokens at an offset are followed by these m ids (m,) anywhere."""
        return bool((self.continuations(offset) == continuation).all(1).any())

    def continuations(self, offset: int) -> np.ndarray:
        """The m ids that follow the k tokens at an offset, at each place that has them, (n, m)."""
        order, group = self._order, self.group[offset]
        first, end = np.searchsorted(self.group[order], (group, group + 1))
        return self.ids[order[first:end, None] + self.k + np.arange(self.m)]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.group, kind="stable")


def alike(ids: np.ndarray, length: int) -> np.ndarray:
    """A number for the window of `length` ids at each place, the same where windows are the same,
    by doubling (Karp, Miller and Rosenberg, 1972)."""
    group, have = ids.astype(np.int64), 1
    while have < length:
        step = min(have, length - have)
        pairs = group[:-step] * (int(group.max()) + 1) + group[step:]
        group = np.unique(pairs, return_inverse=True)[1]
        have += step
    return group


def periodic(ids: np.ndarray, k: int, m: int) -> np.ndarray:
    """Whether, at each place of a text, the m ids after k others only repeat what those k have
    begun to repeat: copying says them, and nothing of the text need be known.

    For some period p < k, each of the m ids is the one p before it, and so is each of the last p of
    the k that has one.
    """
    places = np.arange(len(ids) - k - m + 1)
    is_periodic = np.zeros(len(places), bool)
    for period in range(1, k):
        differs = np.append(0, np.cumsum(ids[period:] != ids[:-period]))
        first, end = places + max(0, k - 2 * period), places + k + m - period
        is_periodic |= differs[first] == differs[end]
    return is_periodic


def new_windows(ids: np.ndarray, text: np.ndarray, length: int) -> np.ndarray:
    """Whether the window of `length` ids at each place occurs nowhere in a text."""
    group = alike(np.concatenate([text, ids]), length)
    return ~np.isin(group[len(text) :], group[: max(0, len(text) - length + 1)])


def followed(ids: np.ndarray, run: np.ndarray, k: int, reach: int) -> int:
    """How many ids of a run (k + n,) after its first k go on as the text does somewhere.

    Each must follow all before it at some place of the text, or at least the last `reach` of them:
    whoever sees no more can know no more. Where the text ends, any id is right.
    """
    ends = occurrences(ids, run[:k])
    for position in range(k, len(run)):
        further = _further(ids, ends, run[position])
        if not len(further) and reach < position:
            ends = np.union1d(ends, occurrences(ids, run[position - reach : position]))
            further = _further(ids, ends, run[position])
        if not len(further):
            return len(run) - k if len(ids) in ends else position - k
        ends = further
    return len(run) - k


def _further(ids: np.ndarray, ends: np.ndarray, token: int) -> np.ndarray:
    inside = ends[ends < len(ids)]
    return inside[ids[inside] == token] + 1


def occurrences(ids: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Where the occurrences of a window end in a text: the place after each, ascending."""
    ends = np.arange(len(ids))
    for token in window:
        ends = _further(ids, ends, token)
    return ends
