"""The ids that a text has, and whether ids are some: before anything is looked up by them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..settings.config import GPT2_VOCAB_SIZE


def within(ids: np.ndarray, total: int) -> np.ndarray:
    """The ids themselves, of any shape. Raises ValueError for one outside 0 … total − 1."""
    if (bad := ids[(ids < 0) | (ids >= total)]).size:
        raise ValueError(f"token id {bad.flat[0]} is outside the vocabulary of {total}")
    return ids


@dataclass(frozen=True)
class Vocabulary:
    """The ids that a text has, and one shared row for all that it lacks.

    Ids that never occur get equal gradients, by the symmetry of softmax, so from one common start
    an element-wise optimiser keeps their rows equal for ever: one row with log(absent) added to
    its logit stands for all of them, exactly.
    """

    own: np.ndarray  # (S,) int32, ascending
    total: int = GPT2_VOCAB_SIZE

    @classmethod
    def of(cls, ids: np.ndarray, total: int = GPT2_VOCAB_SIZE) -> Vocabulary:
        """The vocabulary of a text. Raises ValueError for what is no id."""
        return cls(np.unique(within(ids, total)).astype(np.int32), total)

    @property
    def rows(self) -> int:
        """Rows of the closed embedding: S own ones and, where an id is absent, the shared one."""
        return len(self.own) + (self.absent > 0)

    @property
    def absent(self) -> int:
        """Ids that share the last row."""
        return self.total - len(self.own)

    @cached_property
    def table(self) -> np.ndarray:
        """Row of every id, (total,) int32; absent ids have the shared row, the last."""
        table = np.full(self.total, len(self.own), np.int32)
        table[self.own] = np.arange(len(self.own), dtype=np.int32)
        return table

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id. Raises ValueError for one that is no id."""
        return self.table[within(ids, self.total)]
