"""exp, GELU and sums for MLX's CPU backend, from operations that a compiler can vectorise.

Each is shaped so that mx.compile makes few kernels of it, over contiguous arrays.
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


def row_sums(x: mx.array) -> mx.array:
    """Sums over the last axis, kept as 1: a product with ones, which BLAS does on all cores."""
    return (x.reshape(-1, x.shape[-1]) @ mx.ones((x.shape[-1], 1))).reshape(*x.shape[:-1], 1)


def exp(x: mx.array) -> mx.array:
    """exp of x < 11 within a share of 1e-5 of it down to -20, 8e-7 below; 0 below -87.

    (1 + q)^128 with q = expm1(x / 128) by Taylor's series: the first squarings keep q apart from
    the 1, so that its rounding is not multiplied by 128.
    """
    y = barrier(mx.maximum(x, _EXP_LIMIT) * (1 / 128))
    y2 = y * y
    q = y + y2 * ((1 / 2 + y * (1 / 6)) + y2 * ((1 / 24 + y * (1 / 120)) + y2 * (1 / 720)))
    q = mx.where(q > _EXP_LIMIT_Q, q, -1.0).reshape(x.shape)
    for _ in range(3):
        q = q * (2 + q)
    e = 1 + q
    for _ in range(4):
        e = e * e
    return e


def barrier(x: mx.array) -> mx.array:
    """x as (1, size), which ends a fused kernel without a copy.

    mx.compile cuts expressions deeper than 11 operations where it likes, and a constant on the far
    side of a cut becomes a strided operand, at a third of the speed.
    """
    return x.reshape(1, -1)


def _rational(x: mx.array, limit: float, numerator: _Terms, denominator: _Terms) -> mx.array:
    """x P(x²) / Q(x²) for x clipped to ±limit, as (1, size); Estrin's order of sums is shallow."""
    x = barrier(mx.minimum(mx.maximum(x, -limit), limit))
    s = x * x
    s2 = s * s
    s4 = s2 * s2

    def polynomial(c: _Terms) -> mx.array:
        pairs = [c[i] + c[i + 1] * s if i + 1 < len(c) else c[i] for i in range(0, len(c), 2)]
        high = pairs[2] + pairs[3] * s2 if len(pairs) > 3 else pairs[2]
        return (pairs[0] + pairs[1] * s2) + high * s4

    return x * polynomial(numerator) / polynomial(denominator)


@mx.compile
def exp_below(x: mx.array, top: mx.array) -> mx.array:
    return exp(x - top)


@mx.compile
def exp_between(x: mx.array, top: mx.array, more: mx.array) -> mx.array:
    return exp(x - top + more)


@mx.compile
def gelu_forward(x: mx.array) -> mx.array:
    """Below the fit's limit it is 0: 1 + tanh is off by 2e-7 there, which x would multiply."""
    y = barrier(x)
    return mx.where(y < -_TANH[0], 0.0, 0.5 * y * (1 + _rational(x, *_TANH))).reshape(x.shape)


@mx.compile
def gelu_backward(x: mx.array, g: mx.array) -> mx.array:
    return (barrier(g) * (0.5 + _rational(x, *_SLOPE))).reshape(x.shape)
