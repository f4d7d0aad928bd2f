"""Lines of a text, by its tokens."""

from __future__ import annotations

import numpy as np

from .tokenizer import gpt2


def newlines(ids: np.ndarray) -> np.ndarray:
    """Newlines in each token."""
    encoding = gpt2()
    distinct, place = np.unique(ids, return_inverse=True)
    counts = [encoding.decode_single_token_bytes(int(i)).count(b"\n") for i in distinct]
    return np.array(counts)[place]


def lines_of(ids: np.ndarray, first_line: int) -> np.ndarray:
    """The line, (N,), in which each token begins; the first token's is `first_line`."""
    breaks = newlines(ids)
    return first_line + np.cumsum(breaks) - breaks


def start_at(ids: np.ndarray, first_line: int, line: int) -> int:
    """The first token that begins in a line of a passage. Raises ValueError where none does."""
    lines = lines_of(ids, first_line)
    if not first_line <= line <= lines[-1]:
        raise ValueError(
            f"line {line} is not in the learned passage, lines {first_line} to {int(lines[-1])}"
        )
    return int(np.searchsorted(lines, line))
