"""The compiled training step, shared among ranks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx import nn

from ..model import ops
from ..model.gpt import GPT
from ..runtime import on_gpu
from ..runtime.ranks import ALONE, Ranks
from .optimizer import clip, global_norm, masked
from .windows import Batch

Losses = tuple[mx.array, mx.array]  # the batch's, and its targets'


class StepResult(NamedTuple):
    """What a step gives, not waited for: the batch's loss, the gradients' norm before clipping, the
    losses (B, T) of its targets, and above 0 where a rank asks to stop."""

    loss: mx.array
    norm: mx.array
    nll: mx.array
    stop_requests: mx.array


class Step:
    """Forward, backward, clipping and update, compiled with all state captured: as one graph, or on
    a GPU among ranks as two.

    Each rank computes its share of a batch's windows; gradients, loss and the targets' losses are
    those of the whole batch for all of them.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: optim.Optimizer,
        limit: float,
        absent: int,
        ranks: Ranks = ALONE,
        masks: Mapping[str, mx.array] | None = None,
    ) -> None:
        """`limit` is the largest norm of all gradients, `absent` the number of ids that share the
        last row. Gradients are multiplied by those of the `masks`, by name, that there are."""
        self.state = [model.state, optimizer.state]
        self.model, self.optimizer, self.ranks = model, optimizer, ranks
        rows = model.wte.weight.shape[0]
        # The shared row's gradient is `absent` times that of each id it stands for.
        count = mx.where(mx.arange(rows) == rows - 1, float(max(absent, 1)), 1.0)
        mx.eval(count)

        def loss_fn(inputs: mx.array, targets: mx.array, weights: mx.array) -> Losses:
            states = model.hidden(inputs)
            return ops.head_loss(
                states.reshape(-1, states.shape[-1]),
                model.wte.weight,
                targets.reshape(-1),
                weights.reshape(-1),
                max(absent, 1),
            )

        loss_and_gradients = nn.value_and_grad(model, loss_fn)

        def update(gradients: Any) -> mx.array:
            """Updates the model; returns the gradients' norm."""
            gradients = masked(gradients, masks or {})
            counts = {}
            if absent > 1:
                table = gradients["wte"]
                shared = table["weight"][rows - 1 :] / absent
                table["weight"] = mx.slice_update(
                    table["weight"], shared, mx.array([rows - 1]), axes=[0]
                )
                counts["wte.weight"] = count
            norm = global_norm(gradients, counts)
            optimizer.update(model, clip(gradients, norm, limit))
            return norm

        def step(stop_requests: mx.array, *batch: mx.array) -> tuple[mx.array, ...]:
            (loss, nll), gradients = loss_and_gradients(*batch)
            nll = nll.reshape(batch[0].shape)
            if ranks.size > 1:
                gradients, nll = ranks.average(gradients), ranks.concatenate(nll)
                loss, stop_requests = ranks.mean(mx.stack([loss, stop_requests]))
            return loss, update(gradients), nll, stop_requests

        compiled = partial(mx.compile, inputs=self.state, outputs=self.state)
        compiled_gradients, compiled_update = compiled(loss_and_gradients), compiled(update)

        def step_in_two(stop_requests: mx.array, *batch: mx.array) -> tuple[mx.array, ...]:
            """`step` as a GPU's work before the exchange and after it, with none that waits."""
            (loss, nll), gradients = compiled_gradients(*batch)
            gradients = ranks.average_now(gradients)
            nll = ranks.concatenate(nll.reshape(batch[0].shape))
            mx.eval(nll)
            (sums,) = ranks.sum_now([mx.stack([loss, stop_requests])])
            loss, stop_requests = sums / ranks.size
            return loss, compiled_update(gradients), nll, stop_requests

        self._step = step_in_two if ranks.size > 1 and on_gpu() else compiled(step)

    def __call__(self, batch: Batch, lr: float, stop_requested: bool = False) -> StepResult:
        """Starts one step; `stop_requested` is whether this rank asks to stop.

        Raises ValueError for an id that the model has no row for.
        """
        self.ranks.wait()  # MLX's ring is reported to hang where ranks come late to large exchanges
        self.optimizer.learning_rate = lr
        inputs, targets, weights = self._share(batch)
        ids = map(self.model.checked_ids, (inputs, targets))
        results = self._step(mx.array(float(stop_requested)), *ids, mx.array(weights))
        mx.async_eval(results, self.state)
        loss, norm, nll, total = results
        return StepResult(loss, norm, nll[: len(batch.inputs)], total)

    def _share(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This rank's inputs, targets and weights, of which the whole batch's mean over ranks is 1.

        Where windows cannot be dealt evenly, some that weigh nothing are added.
        """
        rank, size = self.ranks.rank, self.ranks.size
        weights = batch.weights / batch.weights.sum()
        if size == 1:
            return batch.inputs, batch.targets, weights
        count = -(-len(weights) // size)
        extra = ((0, count * size - len(weights)), (0, 0))
        parts = (batch.inputs, batch.targets, weights * np.float32(size))
        own = slice(rank * count, (rank + 1) * count)
        inputs, targets, weights = (np.pad(part, extra)[own] for part in parts)
        return inputs, targets, weights
