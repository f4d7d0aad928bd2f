"""Ranks that train together hold the same state: rank 0's."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ..trees import assign, flat
from .reports import RunState

if TYPE_CHECKING:
    from .loop import Trainer

_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint32}
_MIXER = 2654435761  # 2³² over the golden ratio (Knuth, The Art of Computer Programming, 6.4)


def share(trainer: Trainer) -> None:
    """Puts every rank's trainer where rank 0's stands, before it runs: weights, optimiser, order
    and progress."""
    ranks = trainer.ranks
    state = trainer.state = RunState(**ranks.gather(asdict(trainer.state))[0])
    saved = trainer.order.saved(state.step, state.full_at)
    trainer.order.restore(ranks.from_first(saved))
    _share_tensors(trainer)


def align(trainer: Trainer) -> None:
    """Gives all ranks rank 0's weights and optimiser where they differ in any bit, as machines of
    different kinds may round apart."""
    ranks = trainer.ranks
    if ranks.size == 1:
        return
    prints = ranks.gather(_fingerprint(trainer))
    if any(other != prints[0] for other in prints):
        _share_tensors(trainer)


def _share_tensors(trainer: Trainer) -> None:
    """In place, as the compiled step has captured both trees."""
    ranks, model, optimizer = trainer.ranks, trainer.model, trainer.optimizer
    assign(model, ranks.from_first(flat(model.parameters())))
    assign(optimizer.state, ranks.from_first(flat(optimizer.state)))


def _fingerprint(trainer: Trainer) -> dict[str, int]:
    """A sum of the bits of each array of the weights and the optimiser's state, by name."""
    arrays = {f"model.{name}": value for name, value in flat(trainer.model.parameters()).items()}
    arrays |= flat(trainer.optimizer.state)
    sums = mx.stack([_sum_of_bits(value) for value in arrays.values()])
    return dict(zip(arrays, np.array(sums).tolist(), strict=True))


def _sum_of_bits(values: mx.array) -> mx.array:
    """An array's words, each times an odd number of its place, so that changes do not cancel out;
    a uint32, modulo 2³²."""
    words = values.reshape(-1).view(_WORDS[values.dtype.size]).astype(mx.uint32)
    places = mx.arange(words.size, dtype=mx.uint32) * _MIXER
    return (words * (places ^ (places >> 15) | 1)).sum()
