"""Gradients as this device computes them, beside the same in float64: many times, as a race in a
kernel shows now and then only.

What sums alone decide is asked twice: in small whole numbers, whose sums are exact in any order and
at any precision here, so that a single wrong bit tells; and in fractions, which tell how precisely
the device adds up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np

from ..model import ops

REPEATS = 48
ROWS, WIDTH, TABLE = 2048, 768, 500
HEADS, TIME = (4, 12), 128  # windows and heads of the attention; tokens
TOKENS, CLASSES = 256, 1000  # of the head
EPS = 1e-5
# Of the largest gradient. A GPU may sum bfloat16 in bfloat16.
TOLERANCE = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.1}


@dataclass(frozen=True)
class Check:
    """Gradients to compute again and again, and what they should be; `exact` to the last bit."""

    compute: Callable[[], Sequence[mx.array]]
    expected: Sequence[np.ndarray]
    exact: bool = False


def checked(check: Check, dtype: str, limit: float) -> dict[str, Any]:
    """How far a device's gradients are from those expected, over `repeats` or until `limit` seconds
    are over: `worst_error`, of the largest gradient, None where one is not finite; how many repeats
    were `wrong`, and how many `differ` from the first one in any bit."""
    tolerance = 0.0 if check.exact else TOLERANCE[dtype]
    worst, wrong, differ, repeats = 0.0, 0, 0, 0
    first: list[np.ndarray] = []
    start = time.perf_counter()
    while repeats < REPEATS and (repeats < 2 or time.perf_counter() - start < limit):
        gradients = [np.array(g.astype(mx.float32)) for g in check.compute()]
        pairs = zip(gradients, check.expected, strict=True)
        # np.max, unlike max, keeps a NaN wherever it stands.
        error = float(np.max([np.abs(g - want).max() / np.abs(want).max() for g, want in pairs]))
        first = first or gradients
        repeats += 1
        wrong += not error <= tolerance  # also where it is no number
        differ += any(g.tobytes() != f.tobytes() for g, f in zip(gradients, first, strict=True))
        worst = max(worst, error) if np.isfinite(worst) and np.isfinite(error) else np.inf
    return {
        "repeats": repeats,
        "wrong": wrong,
        "differ": differ,
        "worst_error": worst if np.isfinite(worst) else None,
        "tolerance": tolerance,
        "passed": not wrong,
    }


class _Inputs:
    """Random arrays at a precision, each with the float64 values that it then has."""

    def __init__(self, dtype: str) -> None:
        self._rng, self._dtype = np.random.default_rng(0), getattr(mx, dtype)

    def normal(self, *shape: int, scale: float = 1.0) -> tuple[mx.array, np.ndarray]:
        return self._rounded(self._rng.normal(0, scale, shape))

    def summands(self, exact: bool) -> tuple[mx.array, np.ndarray]:
        """ROWS × WIDTH numbers to add up: normal ones, or where the sums are to be `exact` mostly
        0, else 1 or -1: no sum of theirs comes near 256, bfloat16's last whole number."""
        if not exact:
            return self.normal(ROWS, WIDTH)
        signs = self._rng.choice([-1, 0, 1], (ROWS, WIDTH), p=[1 / 16, 7 / 8, 1 / 16])
        return self._rounded(signs)

    def ids(self, count: int, most: int) -> np.ndarray:
        """Ids, of which the low ones are frequent, the first one of an eighth."""
        return (most * self._rng.random(count) ** 3).astype(np.int32)

    def _rounded(self, values: np.ndarray) -> tuple[mx.array, np.ndarray]:
        held = mx.array(values.astype(np.float32)).astype(self._dtype)
        return held, np.array(held.astype(mx.float32)).astype(np.float64)


def layer_norm_bias(dtype: str, exact: bool = True) -> Check:
    """LayerNorm's shift: the sum over rows of what comes from above."""
    draw = _Inputs(dtype)
    (x, _), (w, _), (b, _) = draw.normal(ROWS, WIDTH), draw.normal(WIDTH), draw.normal(WIDTH)
    g, g64 = draw.summands(exact)
    return Check(
        lambda: mx.vjp(lambda b: ops.layer_norm(x, w, b, EPS), [b], [g])[1], [g64.sum(0)], exact
    )


def linear_bias(dtype: str, exact: bool = True) -> Check:
    """A linear layer's bias, likewise."""
    draw = _Inputs(dtype)
    (x, _), (w, _), (b, _) = draw.normal(ROWS, 64), draw.normal(WIDTH, 64), draw.normal(WIDTH)
    g, g64 = draw.summands(exact)
    return Check(lambda: mx.vjp(lambda b: ops.linear(x, w, b), [b], [g])[1], [g64.sum(0)], exact)


def embedding(dtype: str, exact: bool = True) -> Check:
    """A table's rows, each the sum over where it was looked up."""
    draw = _Inputs(dtype)
    (table, _), (g, g64) = draw.normal(TABLE, WIDTH), draw.summands(exact)
    ids = draw.ids(ROWS, TABLE)
    want = np.zeros((TABLE, WIDTH))
    np.add.at(want, ids, g64)
    rows = mx.array(ids)
    return Check(lambda: mx.vjp(lambda t: t[rows], [table], [g])[1], [want], exact)


def layer_norm(dtype: str) -> Check:
    """LayerNorm's input and gain."""
    draw = _Inputs(dtype)
    (x, x64), (w, w64), (b, _) = draw.normal(ROWS, WIDTH), draw.normal(WIDTH), draw.normal(WIDTH)
    g, g64 = draw.normal(ROWS, WIDTH)
    scale = 1 / np.sqrt(x64.var(-1, keepdims=True) + EPS)
    normal = (x64 - x64.mean(-1, keepdims=True)) * scale
    h = g64 * w64
    dx = scale * (h - h.mean(-1, keepdims=True) - normal * (h * normal).mean(-1, keepdims=True))
    return Check(
        lambda: mx.vjp(lambda x, w: ops.layer_norm(x, w, b, EPS), [x, w], [g])[1],
        [dx, (g64 * normal).sum(0)],
    )


def attention(dtype: str) -> Check:
    """Causal attention's queries, keys and values."""
    draw, depth = _Inputs(dtype), WIDTH // HEADS[1]
    (q, q64), (k, k64), (v, v64) = (draw.normal(*HEADS, TIME, depth) for _ in range(3))
    g, g64 = draw.normal(HEADS[0], TIME, WIDTH)
    above = g64.reshape(HEADS[0], TIME, HEADS[1], depth).transpose(0, 2, 1, 3)
    scores = q64 @ k64.swapaxes(-1, -2) / np.sqrt(depth)
    scores = np.where(np.tri(TIME, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = above @ v64.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(depth)
    return Check(
        lambda: mx.vjp(lambda q, k, v: ops.attention(q, k, v, "causal"), [q, k, v], [g])[1],
        [ds @ k64, ds.swapaxes(-1, -2) @ q64, p.swapaxes(-1, -2) @ above],
    )


def head(dtype: str) -> Check:
    """The mean cross-entropy of the tied head, by its states and its rows."""
    draw = _Inputs(dtype)
    (x, x64), (w, w64) = draw.normal(TOKENS, WIDTH), draw.normal(CLASSES, WIDTH, scale=0.1)
    targets = draw.ids(TOKENS, CLASSES)
    logits = x64 @ w64.T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    p[np.arange(TOKENS), targets] -= 1
    p /= TOKENS
    held, shares = mx.array(targets), mx.full(TOKENS, 1 / TOKENS)
    loss = mx.grad(lambda x, w: ops.head_loss(x, w, held, shares)[0], argnums=(0, 1))
    return Check(lambda: loss(x, w), [p @ w64, p.T @ x64])


CHECKS: dict[str, Callable[[str], Check]] = {
    "LayerNorm's bias": layer_norm_bias,
    "a linear layer's bias": linear_bias,
    "the embedding": embedding,
    "LayerNorm's bias, summing fractions": partial(layer_norm_bias, exact=False),
    "a linear layer's bias, summing fractions": partial(linear_bias, exact=False),
    "the embedding, summing fractions": partial(embedding, exact=False),
    "LayerNorm's input and gain": layer_norm,
    "attention": attention,
    "the head and its loss": head,
}
