"""What the last training losses of a text's tokens tell: which are known, and a byte for each.

Needs no MLX, as those who only read a run's files have none.
"""

from __future__ import annotations

import math

import numpy as np

LEAST, MOST = 1e-4, 10.0  # nats, the ends of the scale, as of the memory map
LEVELS, UNTRAINED = 255, 255  # steps of the scale, and what stands beside it
UNTRAINED_LOSS = 8.0  # nats, exactly: what a token has that was never trained with some context
KNOWN = math.log(2)  # nats: a token that is likelier than all others together has fewer


def known(nll: np.ndarray) -> float:
    """Share of a text's tokens that are known, by their last losses (N,) in training, the first of
    which is that of no target.

    A token counts whose probability was above one half, so that greedy decoding was sure to say it
    after what stands before it. The losses are those of the last time that each token was trained,
    by weights that have learned more since.
    """
    return float(np.mean(nll[1:] < KNOWN)) if len(nll) > 1 else 0.0


def known_by_place(nll: np.ndarray, parts: int) -> np.ndarray:
    """`known` in each of as many parts of a text, from its beginning to its end, alike in length;
    fewer where it has fewer tokens."""
    tokens = nll[1:] < KNOWN
    return np.array([part.mean() for part in np.array_split(tokens, min(parts, len(tokens)))])


def levels_of(nll: np.ndarray) -> np.ndarray:
    """One byte a token, (N,) uint8, for losses in nats: its place on a logarithmic scale from LEAST
    to MOST, 0 to LEVELS - 1 in steps of 4.6 %, or UNTRAINED."""
    clipped = np.clip(nll, LEAST, MOST)
    place = np.log(clipped / LEAST) / math.log(MOST / LEAST)
    levels = np.rint(place * (LEVELS - 1))
    return np.where(nll == UNTRAINED_LOSS, UNTRAINED, levels).astype(np.uint8)
