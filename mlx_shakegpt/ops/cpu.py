"""Formulas for MLX's CPU backend, each with its gradient, from operations that it does fast.

MLX's CPU kernels are scalar calls for tanh and exp, strided wherever an operand is broadcast or
transposed, and single-threaded; only matrix products use all cores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def custom(function: Callable[..., Any]) -> Any:
    """mx.custom_function, whose type says nothing of what it returns."""
    return mx.custom_function(function)


def _tanh(x: mx.array) -> mx.array:
    """tanh as the odd rational function of Eigen's `ptanh_float`, within 4e-7."""
    x = mx.clip(x, -7.90531110763549805, 7.90531110763549805)
    s = x * x
    p = -2.76076847742355e-16 * s + 2.00018790482477e-13
    for c in (-8.60467152213735e-11, 5.12229709037114e-08, 1.48572235717979e-05):
        p = p * s + c
    p = (p * s + 6.37261928875436e-04) * s + 4.89352455891786e-03
    q = 1.19825839466702e-06 * s + 1.18534705686654e-04
    q = (q * s + 2.26843463243900e-03) * s + 4.89352518554385e-03
    return x * p / q


def _exp(x: mx.array) -> mx.array:
    """exp of x <= 0 within 8e-7, and within a share of 1e-5 of it down to -20; e^-87 below -87.

    (1 + q)^128 with q = expm1(x / 128) by Taylor's series: the first squarings keep q apart from
    the 1, so that its rounding is not multiplied by 128.
    """
    y = mx.maximum(x, -87.0) * (1 / 128)
    q = y * (1 + y * (1 / 2 + y * (1 / 6 + y * (1 / 24 + y * (1 / 120 + y * (1 / 720))))))
    for _ in range(3):
        q = q * (2 + q)
    e = 1 + q
    for _ in range(4):
        e = e * e
    return e


@partial(mx.compile, shapeless=True)
def _exp_below(x: mx.array, top: mx.array) -> mx.array:
    return _exp(x - top)


@mx.compile
def _gelu_forward(x: mx.array) -> mx.array:
    return 0.5 * x * (1 + _tanh(_SQRT_2_OVER_PI * (x + _CUBIC * (x * x * x))))


@mx.compile
def _gelu_backward(x: mx.array, g: mx.array) -> mx.array:
    t = _tanh(_SQRT_2_OVER_PI * (x + _CUBIC * (x * x * x)))
    slope = _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * (x * x))
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


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
    # The maximum over all scores serves as well as that over the seen ones.
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
