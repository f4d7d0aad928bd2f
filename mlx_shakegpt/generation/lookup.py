"""Guesses at what comes next, from a text in which the last tokens stand already.

Knows nothing of models: a guess costs nothing but the time to check it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_MATCH = 32  # tokens; what agrees so far back hardly differs further back
LEAST_MATCH, SURE_MATCH = 2, 8
FIRST_GUESS, LONGEST_GUESS = 16, 64
TRIALS = 2


class Lookup:
    """Proposes the tokens that follow the longest match of the last ones in a text.

    The number of tokens doubles while all are accepted. Where none is, guesses are not `trusted`:
    decoding is plain, and watched, until what would have been guessed was right again. So an
    unknown text costs no more than plain decoding.
    """

    def __init__(self, ids: Sequence[int] | np.ndarray, trials: int = TRIALS) -> None:
        """`trials` is the number of guesses in a row that must have been right before any is
        checked, where the match is not a long one."""
        self.ids = np.asarray(ids, np.int64)
        self._order = np.argsort(self.ids, kind="stable")
        self._sorted = self.ids[self._order]
        self._length, self._trials, self._right = FIRST_GUESS, trials, 0
        self.proposed = self.accepted = self.passes = 0

    def match(self, history: Sequence[int]) -> tuple[int, int]:
        """Where in the text the last tokens of `history` stand: the place after them, and how many
        agree, at most LONGEST_MATCH; the first place of the longest match."""
        place, length = 0, 0
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
            place, length = int(places.min()), length + 1
        return place, length

    def propose(self, history: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `history`; none where it matches too little."""
        place, length = self.match(history)
        if length < LEAST_MATCH or place == len(self.ids):
            self._right = 0
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
            self._length = min(2 * self._length, LONGEST_GUESS)
        else:
            self._length = FIRST_GUESS
            self._right = self._trials if accepted else 0

    @property
    def trusted(self) -> bool:
        """Whether guesses are worth a pass that checks them."""
        return self._right >= self._trials

    def watch(self, history: Sequence[int], token: int) -> None:
        """Learns whether `token`, from a plain pass, would have been guessed after `history`."""
        self.passes += 1
        place, length = self.match(history)
        hit = length >= LEAST_MATCH and self.ids[place : place + 1].tolist() == [token]
        right = self._trials if length >= SURE_MATCH else self._right + 1
        self._right = right if hit else 0
