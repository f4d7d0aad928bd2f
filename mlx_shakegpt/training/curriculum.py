"""A run's batches: short windows at first, whole ones later, and the losses of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import mlx.core as mx
import numpy as np

from ..settings.config import TrainConfig
from .windows import Batch, TokenLosses, Windows


class Curriculum:
    """The batches of a run by step; `full_at` is the first step with whole windows."""

    def __init__(self, ids: np.ndarray, config: TrainConfig) -> None:
        """`ids` are rows of `wte`. Raises ValueError for a text shorter than a window."""
        self.losses = TokenLosses(len(ids))
        self._full = self._stream(ids, config, config.context, 1)
        short = config.short_context or config.context
        self._short = self._full
        if short < config.context:
            self._short = self._stream(ids, config, short, 0)

    def batch(self, step: int, full_at: int) -> Batch:
        """The batch of a step, counted from 0."""
        if step < full_at:
            return self._short.batch(step)
        batch = self._full.batch(step - full_at)
        return replace(
            batch, epoch=batch.epoch + (self._short.epoch(full_at - 1) if full_at else 0)
        )

    def context(self, step: int, full_at: int) -> int:
        """Window length of a step, counted from 0."""
        return (self._short if step < full_at else self._full).context

    def draws(self, step: int, full_at: int) -> bool:
        """Whether the losses of all steps before it decide a step's batch."""
        short = step < full_at
        return self._short.draws(step) if short else self._full.draws(step - full_at)

    def steps(self, epochs: float) -> int:
        """Steps that `epochs` passes over the text take with the windows of the start."""
        return self._short.steps(epochs)

    def saved(self, step: int, full_at: int) -> dict[str, mx.array]:
        """What decides the batches from a step on, besides the configuration.

        At `full_at` itself the short windows under way are still kept, as a longer plan may go on
        with them.
        """
        arrays = {"seen": self.losses.nll}
        name, own = ("short", step) if step <= full_at else ("full", step - full_at)
        drawn = self._streams[name].drawn(own)
        arrays |= {f"{name}.{epoch}": windows for epoch, windows in drawn.items()}
        return {name: mx.array(values) for name, values in arrays.items()}

    def restore(self, saved: Mapping[str, mx.array]) -> None:
        """Goes on from what `saved` gave."""
        arrays = {name: np.array(values) for name, values in saved.items()}
        self.losses.nll[:] = arrays.pop("seen")
        for name, stream in self._streams.items():
            own = {k: v for k, v in arrays.items() if k.startswith(f"{name}.")}
            stream.restore({k.partition(".")[2]: v for k, v in own.items()})

    @property
    def _streams(self) -> dict[str, Windows]:
        return {"short": self._short, "full": self._full}

    def _stream(self, ids: np.ndarray, config: TrainConfig, context: int, stream: int) -> Windows:
        size = config.tokens_per_step // context
        return Windows(
            ids, size, context, config.seed, config.jitter, config.hard, self.losses, stream
        )
