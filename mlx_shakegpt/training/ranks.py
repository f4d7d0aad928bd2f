"""Ranks that train together hold the same state: rank 0's."""

from __future__ import annotations

from dataclasses import asdict

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np

from ..model.gpt import GPT
from ..model.trees import assign, flat
from ..runtime.ranks import Ranks
from .curriculum import Curriculum
from .run_state import RunState

_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint32}
_MIXER = 2654435761  # 2³² over the golden ratio (Knuth, The Art of Computer Programming, 6.4)


def share(
    model: GPT, optimizer: optim.Optimizer, curriculum: Curriculum, state: RunState, ranks: Ranks
) -> RunState:
    """Puts every rank's training where rank 0's stands, before it runs: weights, optimiser and
    curriculum; and progress, which is returned."""
    state = RunState(**ranks.gather(asdict(state))[0])
    curriculum.restore(ranks.from_first(curriculum.saved(state.step, state.full_at)))
    _share_tensors(model, optimizer, ranks)
    return state


def align(model: GPT, optimizer: optim.Optimizer, ranks: Ranks) -> None:
    """Gives all ranks rank 0's weights and optimiser where they differ in any bit, as machines of
    different kinds may round apart."""
    if ranks.size == 1:
        return
    prints = ranks.gather(fingerprint(model, optimizer))
    if any(other != prints[0] for other in prints):
        _share_tensors(model, optimizer, ranks)


def _share_tensors(model: GPT, optimizer: optim.Optimizer, ranks: Ranks) -> None:
    """In place, as the compiled step has captured both trees."""
    assign(model, ranks.from_first(flat(model.parameters())))
    assign(optimizer.state, ranks.from_first(flat(optimizer.state)))


def fingerprint(model: GPT, optimizer: optim.Optimizer) -> dict[str, int]:
    """A sum of the bits of each array of the weights and the optimiser's state, by name."""
    arrays = {f"model.{name}": value for name, value in flat(model.parameters()).items()}
    arrays |= flat(optimizer.state)
    sums = mx.stack([_sum_of_bits(value) for value in arrays.values()])
    return dict(zip(arrays, np.array(sums).tolist(), strict=True))


def _sum_of_bits(values: mx.array) -> mx.array:
    """An array's words, each times an odd number of its place, so that changes do not cancel out;
    a uint32, modulo 2³²."""
    words = values.reshape(-1).view(_WORDS[values.dtype.size]).astype(mx.uint32)
    places = mx.arange(words.size, dtype=mx.uint32) * _MIXER
    return (words * (places ^ (places >> 15) | 1)).sum()
