"""Guesses at what comes next, from a text in which the last tokens stand already.

Knows nothing of models: a guess costs nothing but the time to check it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_MATCH = 32  # tokens; what agrees so far back hardly differs further back
LEAST_MATCH = 2
FIRST_GUESS, LONGEST_GUESS = 8, 48
LONGEST_PAUSE = 16


class Lookup:
    """Proposes the tokens that follow the longest match of the last ones in a text.

    The number of tokens doubles while all are accepted. Where none is, the next proposals wait,
    longer each time, so that an unknown text costs little more than plain decoding.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray) -> None:
        self.ids = np.asarray(ids, np.int64)
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self._length, self._wait, self._pause = FIRST_GUESS, 0, 1
        self.proposed = self.accepted = self.passes = 0

    def match(self, history: Sequence[int]) -> tuple[int, int]:
        """Where in the text the last tokens of `history` stand: the place after them, and how many
        agree, at most LONGEST_MATCH; the first place of the longest match."""
        found, length = 0, 0
        places = np.empty(0, np.int64)
        for token in reversed(history[-LONGEST_MATCH:]):
            if length == 0:
                low, high = np.searchsorted(self._sorted, [token, token + 1])
                places = self._order[low:high] + 1
            else:
                places = places[places > length]
                places = places[self.ids[places - 1 - length] == token]
            if not len(places):
                break
            found, length = int(places.min()), length + 1
        return found, length

    def propose(self, history: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `history`; none where it matches too little."""
        if self._wait:
            self._wait -= 1
            return []
        place, length = self.match(history)
        if length < LEAST_MATCH:
            return []
        return self.ids[place : place + min(self._length, most)].tolist()

    def settle(self, proposed: int, accepted: int) -> None:
        """Learns how many of the proposed tokens were right, after one pass of the model."""
        self.passes += 1
        if not proposed:
            return
        self.proposed += proposed
        self.accepted += accepted
        if accepted == proposed:
            self._length, self._pause = min(2 * self._length, LONGEST_GUESS), 1
        elif accepted:
            self._length, self._pause = FIRST_GUESS, 1
        else:
            self._length = FIRST_GUESS
            self._wait, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
