"""AdamW with fp32 truth for bf16 weights, the learning rate's course, and exact norm clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map, tree_map_with_path

from ..model.trees import flat
from ..runtime import on_gpu
from ..settings.config import TrainConfig

_NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315  # the coefficients of Jordan et al., 2024


class InPlaceAdamW(optim.AdamW):
    """MLX's AdamW, to the last bit, as one kernel for each array that it updates.

    MLX writes the result of a kernel over an operand only where it is the only result. Fused into
    one with three, the update allocates three arrays anew: a fifth of a step's memory on the CPU.
    """

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]
    ) -> mx.array:
        (beta1, beta2), lr = self.betas, self.learning_rate
        m = beta1 * state["m"] + (1 - beta1) * gradient
        v = beta2 * state["v"] + (1 - beta2) * mx.square(gradient)
        state["m"], state["v"] = m, v
        m, v = mx.depends([m, v], [m, v])  # ends the kernels
        step_size = lr / (1 - beta1**self.step)
        correction = mx.rsqrt(1 - beta2**self.step)
        decayed = parameter * (1 - lr * self.weight_decay)
        return decayed - step_size * m / (mx.sqrt(v) * correction + self.eps)


class SplitMuon(optim.Muon):
    """MLX's Muon (Jordan et al., 2024), which orthogonalises q's, k's and v's part of their joint
    projection one by one."""

    exact = True  # products are those of float32

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]
    ) -> mx.array:
        rows, columns = parameter.shape
        count = 3 if rows == 3 * columns else 1
        momenta = [{"v": part} for part in state["v"].split(count)]
        parts = zip(gradient.split(count), parameter.split(count), momenta, strict=True)
        updated = [super(SplitMuon, self).apply_single(*part) for part in parts]
        state["v"] = mx.concatenate([momentum["v"] for momentum in momenta])
        return mx.concatenate(updated)

    def _zeropower_via_newtonschulz5(self, X: mx.array, steps: int) -> mx.array:
        return orthogonalised(X, steps, self.exact)


def orthogonalised(matrix: mx.array, iterations: int = 5, exact: bool = True) -> mx.array:
    """About the nearest matrix with orthonormal rows, or columns where it is taller than wide, by
    the Newton-Schulz iteration X ← (a + b XXᵀ + c (XXᵀ)²) X of Jordan et al., 2024; float32.

    All iterates are polynomials of the first one's XXᵀ. For a long matrix that product is made
    once, and the polynomials are multiplied instead of the matrix: 0.4 times the work for 1 : 4.
    But errors grow with the square of its condition there, so that not with products that are not
    `exact`: rounded to bfloat16, small singular values end anywhere between 0 and 4.
    Products of a matrix with its own transpose are half the work on a CPU (runtime/engine.cpp).
    """
    rows, columns = matrix.shape
    X = matrix if rows <= columns else matrix.T
    X = X / (mx.linalg.norm(X) + 1e-7)
    long = exact and max(rows, columns) > 1.6 * min(rows, columns)
    gram, factor = X @ X.T, None
    a, b, c = _NEWTON_SCHULZ
    for left in reversed(range(iterations)):
        polynomial = a * mx.eye(len(gram)) + b * gram + c * (gram @ gram.T)
        if long:
            factor = polynomial if factor is None else factor @ polynomial
            gram = gram @ (polynomial @ polynomial.T) if left else gram
        else:
            X = polynomial @ X
            gram = X @ X.T if left else gram
    X = X if factor is None else factor @ X
    return X if rows <= columns else X.T


class _Masters(optim.Optimizer):
    """An optimiser whose state holds fp32 masters (Micikevicius et al., 2018, section 3.1).

    A bf16 weight near 0.02 moves in steps of 6e-5 to 1.2e-4, so at the end of a decayed schedule
    a plain bf16 update rounds to nothing. The master does not. `init` must have been called with
    the parameters; otherwise MLX would hand the gradients to `init_single`.
    """

    def init_single(self, parameter: mx.array, state: dict[str, Any]) -> None:
        state["w"] = parameter.astype(mx.float32)
        super().init_single(state["w"], state)

    def apply_single(
        self, gradient: mx.array, parameter: mx.array, state: dict[str, Any]
    ) -> mx.array:
        state["w"] = super().apply_single(gradient.astype(mx.float32), state["w"], state)
        return state["w"].astype(parameter.dtype)


class MasterAdamW(_Masters, optim.AdamW):
    """AdamW for bf16 weights."""


class MasterMuon(_Masters, SplitMuon):
    """Muon for bf16 weights, which would give NaN in bf16's range of norms."""


class MuonAndAdamW(optim.MultiOptimizer):
    """Muon for the blocks' matrices, AdamW for embeddings, biases and LayerNorms.

    Muon's rate is `ratio` √C times AdamW's: an orthogonal C × C matrix has entries of 1/√C, and 0.2
    is about what AdamW's steps measure in units of its rate (Liu et al., 2025, arXiv:2502.16982).
    """

    def __init__(self, muon: optim.Muon, adamw: optim.AdamW, ratio: float, n_embd: int) -> None:
        super().__init__(
            [muon, adamw], [lambda name, array: name.startswith("h.") and array.ndim == 2]
        )
        self.ratio = ratio * n_embd**0.5

    @property
    def learning_rate(self) -> mx.array:
        """AdamW's."""
        return self.optimizers[-1].learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float | mx.array) -> None:
        muon, adamw = self.optimizers
        muon.learning_rate, adamw.learning_rate = self.ratio * rate, rate


def optimizer_of(config: TrainConfig, n_embd: int) -> optim.Optimizer:
    """The optimiser of a run: AdamW (Loshchilov and Hutter, 2019) with bias correction, alone or
    with Muon for the blocks' matrices."""
    masters = config.dtype == "bfloat16"
    adamw = (MasterAdamW if masters else InPlaceAdamW)(
        learning_rate=config.lr,
        betas=[config.beta1, config.beta2],
        eps=config.eps,
        weight_decay=config.weight_decay,
        bias_correction=True,
    )
    if config.optimizer == "adamw":
        return adamw
    muon = (MasterMuon if masters else SplitMuon)(config.lr, weight_decay=0.0)
    muon.exact = config.products == "float32"
    return MuonAndAdamW(muon, adamw, config.muon_ratio, n_embd)


def adamw_state(optimizer: optim.Optimizer) -> Any:
    """What AdamW keeps, by parameter, whether it is alone or not."""
    return optimizer.optimizers[-1].state if hasattr(optimizer, "optimizers") else optimizer.state


def learning_rate(step: int, config: TrainConfig, decay_start: int, total: int) -> float:
    """The rate of a step, from 0: linear warm-up, hold, then cosine decay from `decay_start`.

    At step `total` it is `config.end_lr` (Loshchilov and Hutter, 2017, without restarts).
    """
    if step < config.warmup_steps and step < decay_start:
        return config.lr * (step + 1) / config.warmup_steps
    if step < decay_start:
        return config.lr
    done = min(1.0, (step - decay_start) / max(1, total - decay_start))
    return config.end_lr + 0.5 * (1 + math.cos(math.pi * done)) * (config.lr - config.end_lr)


def global_norm(
    gradients: Any, counts: Mapping[str, mx.array] | None = None, joined: bool | None = None
) -> mx.array:
    """The float32 Euclidean norm over all gradients of a tree.

    `counts` gives, by parameter name, how many times each row counts. The sums are products with
    ones: MLX's own float32 sum over a large matrix loses up to 5 % on the CPU. With `joined`, the
    default on a GPU, vectors are laid end to end first: each by itself is four kernels there, and
    GPT-2 124M has 98 of them.
    """
    total = mx.array(0.0)
    arrays = flat(gradients)
    vectors = [name for name, gradient in arrays.items() if gradient.ndim == 1]
    if (on_gpu() if joined is None else joined) and vectors:
        arrays[""] = mx.concatenate([arrays.pop(name) for name in vectors])
    for name, gradient in arrays.items():
        # Flat, so that MLX does not share the cast with what clips, and write it out.
        squares = gradient.reshape(-1).astype(mx.float32).square().reshape(gradient.shape)
        sums = squares.reshape(-1, squares.shape[-1]) @ mx.ones((squares.shape[-1], 1))
        count = counts[name][None] if counts and name in counts else mx.ones((1, sums.shape[0]))
        total = total + (count @ sums).squeeze()
    return mx.sqrt(total)


def masked(gradients: Any, masks: Mapping[str, mx.array]) -> Any:
    """Gradients times the masks of some of them, by name."""
    return tree_map_with_path(
        lambda name, g: g * masks[name].astype(g.dtype) if name in masks else g, gradients
    )


def clip(gradients: Any, norm: mx.array, limit: float) -> Any:
    """Gradients scaled down to a global norm of `limit` (Pascanu et al., 2013); 0: unchanged."""
    if not limit:
        return gradients
    scale = mx.minimum(limit / (norm + 1e-6), 1.0)
    return tree_map(lambda g: (g * scale).astype(g.dtype), gradients)
