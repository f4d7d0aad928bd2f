"""Formulas for MLX's CPU backend, each with its gradient, from operations that it does fast.

MLX's CPU kernels are scalar calls for tanh and exp, strided wherever an operand is broadcast or
transposed, and single-threaded; only matrix products use all cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

_Terms = tuple[float, ...]
# Limit, P and Q of minimax fits x P(x²) / Q(x²), by benchmarks/fit_gelu.py, of
# tanh(√(2/π)(x + 0.044715 x³)), within 2e-7, and of GELU's derivative less 1/2, within 4e-7.
_TANH = (
    5.0,
    (0.79788382, 0.0800788569, 0.00743628805, 0.000361310361, 6.48334457e-06, -2.39613617e-08),
    (1.0, 0.267849844, 0.0286211233, 0.00150506355, 7.13133887e-05),
)
_SLOPE = (
    5.2,
    (
        0.797882175,
        -0.0586042303,
        0.0134036756,
        -0.000406820859,
        2.34685334e-05,
        -3.58137613e-07,
        2.56343785e-09,
    ),
    (1.0, 0.261513295, 0.0277268234, 0.0011440621, 8.63991637e-05),
)
_EXP_LIMIT = -87.0  # exp of it is the smallest float32 of full precision
_EXP_LIMIT_Q = -0.4932  # a little above expm1(-87 / 128)


def custom(function: Callable[..., Any]) -> Any:
    """mx.custom_function, whose type says nothing of what it returns."""
    return mx.custom_function(function)


def _exp(x: mx.array) -> mx.array:
    """exp of x < 11 within a share of 1e-5 of it down to -20, 8e-7 below; 0 below -87.

    (1 + q)^128 with q = expm1(x / 128) by Taylor's series: the first squarings keep q apart from
    the 1, so that its rounding is not multiplied by 128.
    """
    y = _barrier(mx.maximum(x, _EXP_LIMIT) * (1 / 128))
    y2 = y * y
    q = y + y2 * ((1 / 2 + y * (1 / 6)) + y2 * ((1 / 24 + y * (1 / 120)) + y2 * (1 / 720)))
    q = mx.where(q > _EXP_LIMIT_Q, q, -1.0).reshape(x.shape)
    for _ in range(3):
        q = q * (2 + q)
    e = 1 + q
    for _ in range(4):
        e = e * e
    return e


def _barrier(x: mx.array) -> mx.array:
    """x as (1, size), which ends a fused kernel without a copy.

    mx.compile cuts expressions deeper than 11 operations where it likes, and a constant on the far
    side of a cut becomes a strided operand, at a third of the speed.
    """
    return x.reshape(1, -1)


def _rational(x: mx.array, limit: float, numerator: _Terms, denominator: _Terms) -> mx.array:
    """x P(x²) / Q(x²) for x clipped to ±limit, as (1, size); Estrin's order of sums is shallow."""
    x = _barrier(mx.minimum(mx.maximum(x, -limit), limit))
    s = x * x
    s2 = s * s
    s4 = s2 * s2

    def polynomial(c: _Terms) -> mx.array:
        pairs = [c[i] + c[i + 1] * s if i + 1 < len(c) else c[i] for i in range(0, len(c), 2)]
        high = pairs[2] + pairs[3] * s2 if len(pairs) > 3 else pairs[2]
        return (pairs[0] + pairs[1] * s2) + high * s4

    return x * polynomial(numerator) / polynomial(denominator)


@mx.compile
def _exp_below(x: mx.array, top: mx.array) -> mx.array:
    return _exp(x - top)


@mx.compile
def _exp_between(x: mx.array, top: mx.array, more: mx.array) -> mx.array:
    return _exp(x - top + more)


@mx.compile
def _gelu_forward(x: mx.array) -> mx.array:
    return ((0.5 * _barrier(x)) * (1 + _rational(x, *_TANH))).reshape(x.shape)


@mx.compile
def _gelu_backward(x: mx.array, g: mx.array) -> mx.array:
    return (_barrier(g) * (0.5 + _rational(x, *_SLOPE))).reshape(x.shape)


@custom
def gelu(x):
    return _gelu_forward(x)


@gelu.vjp
def _gelu_vjp(primals, cotangent, _):
    return _gelu_backward(primals, cotangent)


@custom
def linear(x, weight):
    return x @ weight.T


@linear.vjp
def _linear_vjp(primals, cotangent, _):
    """The weight's gradient as (out, in) in memory; MLX's own is a transposed view, on which the
    optimiser runs at a tenth of its speed."""
    x, weight = primals
    return cotangent @ weight, cotangent.T @ x


@custom
def affine(x, weight, bias):
    return mx.addmm(bias, x, weight.T)


@affine.vjp
def _affine_vjp(primals, cotangent, _):
    x, weight, _ = primals
    return cotangent @ weight, cotangent.T @ x, cotangent.sum(0)


@custom
def gelu_affine(x, weight, bias):
    """affine(gelu(x), weight, bias), which keeps x for the gradient and computes gelu(x) anew: a
    third of what a block would keep, for a hundredth of a step's time."""
    return mx.addmm(bias, _gelu_forward(x), weight.T)


@gelu_affine.vjp
def _gelu_affine_vjp(primals, cotangent, _):
    x, weight, _ = primals
    # Else mx.compile would find that the forward pass has it already, and keep that.
    (later,) = mx.depends([x], [cotangent])
    dx = _gelu_backward(x, cotangent @ weight)
    return dx, cotangent.T @ _gelu_forward(later), cotangent.sum(0)


@custom
def layer_norm(x, weight, bias, eps):
    """(N, C); sums, here and in the gradient, are products with vectors: BLAS uses all cores."""
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    centred = x - x @ mean
    rstd = mx.rsqrt(_barrier(centred * centred).reshape(x.shape) @ mean + eps)
    normal = centred * rstd
    return normal * weight + bias, rstd, normal


@layer_norm.vjp
def _layer_norm_vjp(primals, cotangents, outputs):
    x, weight, _, eps = primals
    g, rstd, normal = cotangents[0], outputs[1], outputs[2]
    ones, mean = mx.ones((1, x.shape[0])), (weight / x.shape[-1])[:, None]
    product = g * normal
    dx = (g * weight - g @ mean - normal * (product @ mean)) * rstd
    return dx, (ones @ product).squeeze(0), (ones @ g).squeeze(0), mx.zeros_like(eps)


@custom
def split_heads(qkv, heads):
    """(B, T, 3C) to q, k and v, (B, H, T, D) each, every head contiguous: MLX's products would
    copy a transposed view each time. `heads` is an array of one number for each head."""
    B, T, _ = qkv.shape
    H = heads.shape[0]
    x = mx.contiguous(qkv.reshape(B, T, 3 * H, -1).transpose(0, 2, 1, 3))
    return x[:, :H], x[:, H : 2 * H], x[:, 2 * H :]


@split_heads.vjp
def _split_heads_vjp(primals, cotangents, _):
    qkv, heads = primals
    dx = mx.concatenate([g.transpose(0, 2, 1, 3) for g in cotangents], axis=2)
    return dx.reshape(qkv.shape), mx.zeros_like(heads)


@custom
def attention(q, k, v, seen):
    """softmax(q kᵀ / √D) v, (B, T, C), of (B, H, T, D); exactly 0 where `seen` (T, keys) is 0."""
    scores = q @ k.swapaxes(-1, -2)
    flat = scores.reshape(-1, seen.size)
    masked = flat * q.shape[-1] ** -0.5 + ((seen - 1) * 1e30).reshape(1, -1)
    masked = masked.reshape(scores.shape)
    e = _exp_below(masked, masked.max(-1, keepdims=True))
    reciprocal = 1 / _row_sums(e)
    # Dividing the sums, (T, D), is less work than dividing the weights, (T, keys).
    y = (e @ v) * reciprocal
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1), e, reciprocal


@attention.vjp
def _attention_vjp(primals, cotangents, outputs):
    """Through softmax as in FlashAttention (Dao et al., 2022, section 3.1): rowsum(p ∘ dp), over
    the keys, is rowsum(y ∘ g), over D."""
    q, k, v, seen = primals
    y, e, reciprocal = outputs
    B, H, T, D = q.shape
    g = cotangents[0]
    rows = _row_sums((g * y).reshape(B, T, H, D)).transpose(0, 2, 1, 3)
    g = mx.contiguous(g.reshape(B, T, H, D).transpose(0, 2, 1, 3)) * reciprocal
    ds = e * (g @ v.swapaxes(-1, -2) - rows * reciprocal) * D**-0.5
    return ds @ k, ds.swapaxes(-1, -2) @ q, e.swapaxes(-1, -2) @ g, mx.zeros_like(seen)


def _row_sums(x: mx.array) -> mx.array:
    """Sums over the last axis, kept as 1: a product with ones, which BLAS does on all cores."""
    return (x.reshape(-1, x.shape[-1]) @ mx.ones((x.shape[-1], 1))).reshape(*x.shape[:-1], 1)


@custom
def cross_entropy(logits, targets, absent):
    last = logits.shape[-1] - 1
    top = logits.max(-1, keepdims=True)
    more = mx.where(mx.arange(last + 1) == last, mx.log(absent), 0.0)
    e = _exp_between(logits, top, more)
    # A product with ones: MLX's own sum of 50,000 terms is off in the fourth digit.
    total = _row_sums(e)
    own = mx.take_along_axis(logits, targets[:, None], axis=-1)
    return (top + mx.log(total) - own).squeeze(-1), e, total


@cross_entropy.vjp
def _cross_entropy_vjp(primals, cotangents, outputs):
    _, targets, absent = primals
    g, e, total = cotangents[0], outputs[1], outputs[2]
    d = e * (g[:, None] / total)
    d = d.at[mx.arange(d.shape[0]), targets].add(-g)
    return d, mx.zeros_like(targets), mx.zeros_like(absent)
