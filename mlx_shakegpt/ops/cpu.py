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


def custom(function: Callable[..., Any]) -> Any:
    """mx.custom_function, whose type says nothing of what it returns."""
    return mx.custom_function(function)


def _exp(x: mx.array) -> mx.array:
    """exp of x <= 0 within 8e-7, and within a share of 1e-5 of it down to -20; e^-87 below -87.

    (1 + q)^128 with q = expm1(x / 128) by Taylor's series: the first squarings keep q apart from
    the 1, so that its rounding is not multiplied by 128.
    """
    y = _barrier(mx.maximum(x, -87.0) * (1 / 128))
    y2 = y * y
    q = y + y2 * ((1 / 2 + y * (1 / 6)) + y2 * ((1 / 24 + y * (1 / 120)) + y2 * (1 / 720)))
    q = q.reshape(x.shape)
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
def layer_norm(x, weight, bias, eps):
    """(N, C); the sums over C are products with a vector, which BLAS does on all cores."""
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    centred = x - x @ mean
    rstd = mx.rsqrt((centred * centred) @ mean + eps)
    return centred * rstd * weight + bias, rstd, centred


@layer_norm.vjp
def _layer_norm_vjp(primals, cotangents, outputs):
    x, weight, _, eps = primals
    g, rstd, centred = cotangents[0], outputs[1], outputs[2]
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    normal = centred * rstd
    product = g * normal
    scaled = g * weight
    dx = (scaled - scaled @ mean - normal * ((product * weight) @ mean)) * rstd
    return dx, product.sum(0), g.sum(0), mx.zeros_like(eps)


@custom
def masked_softmax(scores, seen):
    """Softmax over the last axis of the scores where `seen` is 1; exactly 0 where it is 0."""
    scores = scores + (seen - 1) * 1e30
    p = _exp_below(scores, scores.max(-1, keepdims=True)) * seen
    return p / p.sum(-1, keepdims=True)


@masked_softmax.vjp
def _masked_softmax_vjp(primals, cotangent, p):
    d = p * cotangent
    return d - p * d.sum(-1, keepdims=True), mx.zeros_like(primals[1])


@custom
def cross_entropy(logits, targets, absent):
    top = logits.max(-1, keepdims=True)
    e = _exp_below(logits, top)
    # A product with ones: MLX's own sum of 50,000 terms is off in the fourth digit.
    total = (e @ mx.ones((e.shape[-1], 1))).squeeze(-1) + (absent - 1) * e[:, -1]
    lse = top.squeeze(-1) + mx.log(total)
    own = mx.take_along_axis(logits, targets[:, None], axis=-1).squeeze(-1)
    last = mx.where(targets == logits.shape[-1] - 1, mx.log(absent), 0.0)
    return lse - own - last, lse


@cross_entropy.vjp
def _cross_entropy_vjp(primals, cotangents, outputs):
    logits, targets, absent = primals
    g, lse = cotangents[0], outputs[1]
    count = mx.where(mx.arange(logits.shape[-1]) == logits.shape[-1] - 1, absent, 1.0)
    d = _exp(logits - lse[:, None]) * (count * g[:, None])
    d = d.at[mx.arange(d.shape[0]), targets].add(-g)
    return d, mx.zeros_like(targets), mx.zeros_like(absent)
