"""The position table, as windows grow."""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim

from ..model.gpt import GPT
from .optimizer import adamw_state


def grow(model: GPT, optimizer: optim.Optimizer, short: int, full: int) -> None:
    """Starts the positions that windows of `short` tokens never reached, up to `full`, from the
    later ones of those.

    In the second half of a window a position says little but that there is context: copies
    work at once, where fresh rows would have to be learned.
    """
    half = short // 2
    positions = mx.arange(full)
    source = mx.where(positions < short, positions, short - half + (positions - short) % half)
    tables = [(model.wpe, "weight")]
    masters = adamw_state(optimizer)["wpe"]["weight"]
    tables += [(masters, "w")] if "w" in masters else []
    for holder, name in tables:
        table = holder[name]
        holder[name] = mx.concatenate([table[source], table[full:]])
