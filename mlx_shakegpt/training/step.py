"""The compiled training step. Knows nothing of where batches come from."""

from __future__ import annotations

from functools import partial

import mlx.core as mx
import mlx.optimizers as optim
from mlx import nn

from .. import ops
from ..model import GPT
from ..optim import clip, global_norm
from ..windows import Batch

Losses = tuple[mx.array, mx.array]  # the batch's, and its targets'


class Step:
    """Forward, backward, clipping and update, compiled as one graph with all state captured."""

    def __init__(self, model: GPT, optimizer: optim.Optimizer, limit: float, absent: int) -> None:
        self.state = [model.state, optimizer.state]
        self.model, self.optimizer = model, optimizer
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
                weights.reshape(-1) / weights.sum(),
                max(absent, 1),
            )

        loss_and_gradients = nn.value_and_grad(model, loss_fn)

        @partial(mx.compile, inputs=self.state, outputs=self.state)
        def step(*batch: mx.array) -> tuple[mx.array, mx.array, mx.array]:
            (loss, nll), gradients = loss_and_gradients(*batch)
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
            return loss, norm, nll.reshape(batch[0].shape)

        self._step = step

    def __call__(self, batch: Batch, lr: float) -> tuple[mx.array, mx.array, mx.array]:
        """Starts one step; its loss, norm and the losses (B, T) of its targets, not waited for.

        Raises ValueError for an id that the model has no row for.
        """
        self.optimizer.learning_rate = lr
        ids = map(self.model.admit, (batch.inputs, batch.targets))
        results = self._step(*ids, mx.array(batch.weights))
        mx.async_eval(results, self.state)
        return results
