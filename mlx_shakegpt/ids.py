"""Token ids on the host, before anything is looked up by them."""

from __future__ import annotations

import numpy as np


def within(ids: np.ndarray, total: int) -> np.ndarray:
    """The ids themselves, of any shape. Raises ValueError for one outside 0 … total − 1."""
    if (bad := ids[(ids < 0) | (ids >= total)]).size:
        raise ValueError(f"token id {bad.flat[0]} is outside the vocabulary of {total}")
    return ids
