"""A layer's operations for MLX's CPU backend, each with its gradient, from what it does fast.

MLX's CPU kernels are scalar calls for tanh and exp, strided wherever an operand is broadcast or
transposed, and single-threaded; only matrix products use all cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from .formulas import barrier, exp_below, exp_between, gelu_backward, gelu_forward


def custom(function: Callable[..., Any]) -> Any:
    """mx.custom_function, whose type says nothing of what it returns."""
    return mx.custom_function(function)


@custom
def gelu(x):
    return gelu_forward(x)


@gelu.vjp
def _gelu_vjp(primals, cotangent, _):
    return gelu_backward(primals, cotangent)


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
    return mx.addmm(bias, gelu_forward(x), weight.T)


@gelu_affine.vjp
def _gelu_affine_vjp(primals, cotangent, _):
    x, weight, _ = primals
    # Else mx.compile would find that the forward pass has it already, and keep that.
    (later,) = mx.depends([x], [cotangent])
    dx = gelu_backward(x, cotangent @ weight)
    return dx, cotangent.T @ gelu_forward(later), cotangent.sum(0)


@custom
def layer_norm(x, weight, bias, eps):
    """(N, C); sums, here and in the gradient, are products with vectors: BLAS uses all cores."""
    mean = mx.full((x.shape[-1], 1), 1 / x.shape[-1])
    centred = x - x @ mean
    rstd = mx.rsqrt(barrier(centred * centred).reshape(x.shape) @ mean + eps)
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
    e = exp_below(masked, masked.max(-1, keepdims=True))
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
    e = exp_between(logits, top, more)
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
