"""The windows of a text in training order, the badly known places more often.

The order is a function of the seed and of the losses seen so far. Knows nothing of models or MLX.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..settings.config import LEAST_CONTEXT

ENOUGH = (
    12  # tokens of context that tell a place in a text (Tiny Shakespeare's entropy: 0.009 nats)
)
COUNTED = 2000  # passes over a text whose windows are counted one by one
CAP = 8.0  # nats that a target weighs at most, so that no single one draws all windows
_DRAW = 1  # what is drawn by loss has a random stream of its own


@dataclass(frozen=True)
class Batch:
    """Windows of one step; `weights` is what each target counts, 0 where its window does not train
    it."""

    inputs: np.ndarray  # (B, T) int32
    targets: np.ndarray  # (B, T) int32
    weights: np.ndarray  # (B, T) float32
    starts: np.ndarray  # (B,) places in the text
    epoch: float  # passes over the text when this batch is done

    @property
    def with_context(self) -> np.ndarray:
        """(B, T), whether enough tokens stand before a target to determine it; at the text's own
        start all there are."""
        positions = np.arange(self.inputs.shape[1])
        return (positions >= enough(positions.size)) | (self.starts[:, None] == 0)


def enough(context: int) -> int:
    """Tokens before a target that make its loss count: ENOUGH, or half of a shorter window."""
    return min(ENOUGH, context // 2)


def with_edge(batch: Batch, weight: float) -> Batch:
    """A batch in which each window's edge, its targets without context, weighs `weight` times as
    much as it did."""
    lighter = np.float32(weight) * batch.weights
    return replace(batch, weights=np.where(batch.with_context, batch.weights, lighter))


class TokenLosses:
    """The loss of every token of a text when it was last trained with some context, in nats."""

    def __init__(self, n: int) -> None:
        self.nll = np.full(n, CAP, np.float32)

    def note(self, batch: Batch, nll: np.ndarray) -> float | None:
        """Takes the losses, (B, T), of a batch's targets; the mean of those with context, None
        where there are none."""
        known = (batch.weights > 0) & batch.with_context
        places = batch.starts[:, None] + np.arange(batch.inputs.shape[1]) + 1
        self.nll[places[known]] = nll[known]
        return float(nll[known].mean(dtype=np.float64)) if known.any() else None


class Windows:
    """The windows of a text as an endless stream, with as many targets an epoch as the text has.

    With `jitter`, each epoch cuts the text at a fresh offset and shuffles, so that the text is
    learned and not its alignment; the share `hard` of the windows is put around targets instead
    that are drawn by `losses` (online batch selection; Loshchilov and Hutter, 2016).
    Without `jitter`, windows lie end to end from the first token, in
    text order, and what remains behind the last whole one is left out.
    """

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        context: int,
        seed: int,
        jitter: bool,
        hard: float = 0.0,
        losses: TokenLosses | None = None,
        stream: int = 0,
    ) -> None:
        """`stream` tells apart the orders of several streams of one run.

        Raises ValueError for a text shorter than a window.
        """
        if len(ids) < context + 1:
            way = f"use `context` {len(ids) - 1}, or " if len(ids) > LEAST_CONTEXT else "use "
            raise ValueError(
                f"the text has {len(ids)} token{'s' * (len(ids) != 1)}, fewer than one window of "
                f"{context} and its next token; {way}a longer text"
            )
        self.ids, self.batch_size, self.context = ids, batch_size, context
        self.seed, self.jitter, self.stream = seed, jitter, stream
        self.hard, self.losses = hard, losses or TokenLosses(len(ids))
        self._starts = [0]  # number of windows before each epoch
        self._epochs: dict[int, np.ndarray] = {}

    def epoch_windows(self, epoch: int) -> np.ndarray:
        """(n, 2): start of each window, and how many of its targets are trained."""
        T, last = self.context, len(self.ids) - 1
        if not self.jitter:
            starts = np.arange(last // T) * T
            return np.stack([starts, np.full_like(starts, T)], 1)
        rng, cut = self._cut(epoch)
        # The last one runs over the end, so that windows begin at every place of the text alike.
        windows = [(0, cut)] + [(s, min(T, last - s)) for s in range(cut, last, T)]
        order = rng.permutation(np.array(windows))
        if not (drawn := round(self.hard * len(order))):
            return order
        rng = np.random.default_rng([self.seed, self.stream, epoch, _DRAW])
        order[:drawn] = self._around_hard(drawn, rng)
        return rng.permutation(order)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0; epochs that end before it are forgotten."""
        first = step * self.batch_size
        begun = self._epoch_of(first)
        self._epochs = {epoch: drawn for epoch, drawn in self._epochs.items() if epoch >= begun}
        windows = []
        for index in range(first, first + self.batch_size):
            epoch = self._epoch_of(index)
            windows.append(self._windows(epoch)[index - self._starts[epoch]])
        start, trained = np.array(windows).T[:, :, None]
        positions = np.arange(self.context)[None]
        last = len(self.ids) - 1
        return Batch(
            self.ids[np.minimum(start + positions, last)],
            self.ids[np.minimum(start + positions + 1, last)],
            (positions < trained).astype(np.float32),
            start[:, 0],
            self.epoch(step),
        )

    def draws(self, step: int) -> bool:
        """Whether a step's batch begins an epoch, whose windows the losses of all steps before it
        decide."""
        first = step * self.batch_size
        return self.hard > 0 and self._starts[self._epoch_of(first + self.batch_size - 1)] >= first

    def epoch(self, step: int) -> float:
        """Passes over the text when a step, counted from 0, is done."""
        index = (step + 1) * self.batch_size - 1
        epoch = self._epoch_of(index)
        before, after = self._starts[epoch : epoch + 2]
        return epoch + (index + 1 - before) / (after - before)

    def steps(self, epochs: float) -> int:
        """Steps that `epochs` passes over the text take, at least one; of very many, nearly."""
        whole = min(int(epochs), COUNTED)
        self._count_to(whole + 1)
        windows = self._starts[whole]
        windows += round((epochs - whole) * (self._starts[whole + 1] - windows))
        return max(1, -(-windows // self.batch_size))

    def drawn(self, step: int) -> dict[str, np.ndarray]:
        """The windows of the epoch that the steps before a step began and did not end, by epoch:
        what `restore` needs to go on with that step.

        An epoch that the step itself begins is left out, drawn or not: it follows from the losses.
        """
        first = step * self.batch_size
        epoch = self._epoch_of(first)
        return {str(epoch): self._windows(epoch)} if self._starts[epoch] < first else {}

    def restore(self, drawn: Mapping[str, np.ndarray]) -> None:
        """Goes on with windows that `drawn` gave."""
        self._epochs = {int(epoch): windows for epoch, windows in drawn.items()}

    def _cut(self, epoch: int) -> tuple[np.random.Generator, int]:
        rng = np.random.default_rng([self.seed, self.stream, epoch])
        return rng, int(rng.integers(1, self.context + 1))

    def _around_hard(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """`n` windows, (n, 2), around targets that are drawn by their loss, evenly spread."""
        last = len(self.ids) - 1
        mass = np.cumsum(np.minimum(self.losses.nll[1:], CAP), dtype=np.float64)
        points = (rng.random() + np.arange(n)) / n * mass[-1]
        targets = np.minimum(np.searchsorted(mass, points), last - 1) + 1
        context = rng.integers(enough(self.context), self.context, n)
        starts = np.maximum(targets - 1 - context, 0)
        return np.stack([starts, np.minimum(self.context, last - starts)], 1)

    def _epoch_of(self, index: int) -> int:
        while self._starts[-1] <= index:
            self._count_to(len(self._starts))
        return bisect_right(self._starts, index) - 1

    def _count_to(self, epoch: int) -> None:
        T, last = self.context, len(self.ids) - 1
        while len(self._starts) <= epoch:
            cut = self._cut(len(self._starts) - 1)[1] if self.jitter else 0
            count = 1 - -(last - cut) // T if self.jitter else last // T
            self._starts.append(self._starts[-1] + count)

    def _windows(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs[epoch] = self.epoch_windows(epoch)
        return self._epochs[epoch]
