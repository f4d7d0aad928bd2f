"""The operations whose formula depends on the device: GELU, attention, LayerNorm, cross-entropy.

On a GPU these are MLX's own fused ones. MLX's CPU backend calls scalar library functions for tanh
and exp, 10 to 20 ns an element, where a polynomial that the compiler can vectorise takes 2 or 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from ...runtime import on_gpu
from . import cpu


def gelu(x: mx.array) -> mx.array:
    """GELU's tanh approximation (Hendrycks and Gimpel, 2016), as in GPT-2."""
    return cpu.gelu(x) if _on_cpu(x) else nn.gelu_approx(x)


def linear(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x (…, in) times weight (out, in) transposed, plus bias (out,).

    On any device with gradients that lie in memory as their weights do.
    """
    flat = x.reshape(-1, x.shape[-1])
    flat = cpu.linear(flat, weight) if bias is None else cpu.affine(flat, weight, bias)
    return flat.reshape(*x.shape[:-1], -1)


def gelu_linear(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """linear(gelu(x), weight, bias), which on a CPU does not keep gelu(x) for the gradient."""
    if not _on_cpu(x):
        return linear(gelu(x), weight, bias)
    flat = cpu.gelu_affine(x.reshape(-1, x.shape[-1]), weight, bias)
    return flat.reshape(*x.shape[:-1], -1)


def split_heads(qkv: mx.array, heads: int) -> Sequence[mx.array]:
    """q, k and v, (B, H, T, D) each, of their joint projection (B, T, 3C)."""
    B, T, _ = qkv.shape
    if not _on_cpu(qkv) or T == 1:
        return mx.unstack(qkv.reshape(B, T, 3, heads, -1).transpose(2, 0, 3, 1, 4))
    return cpu.split_heads(qkv, mx.zeros(heads))


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None) -> mx.array:
    """Scaled dot-product attention over (B, H, T, D), its heads side by side: (B, T, C).

    `mask` as in mx.fast: "causal", array or None. With "causal", the last query sees all keys,
    also where there are more keys than queries.
    """
    # A single query is too little work to be worth a kernel for each number of keys.
    if not _on_cpu(q) or mask != "causal" or q.shape[-2] == 1:
        scale = q.shape[-1] ** -0.5
        y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)
    return cpu.attention(q, k, v)[0]


def layer_norm(x: mx.array, weight: mx.array, bias: mx.array, eps: float) -> mx.array:
    """LayerNorm over the last axis (Ba et al., 2016)."""
    if not _on_cpu(x):
        return mx.fast.layer_norm(x, weight, bias, eps)
    flat = x.reshape(-1, x.shape[-1])
    return cpu.layer_norm(flat, weight, bias, mx.array(eps))[0].reshape(x.shape)


def cross_entropy(logits: mx.array, targets: mx.array, absent: int = 1) -> mx.array:
    """-log softmax(logits)[target], (N,) float32, of (N, R) logits and (N,) targets.

    The last row counts `absent` times in the softmax: it stands for that many ids of equal logit.
    """
    if _on_cpu(logits):
        return cpu.cross_entropy(logits, targets, mx.array(float(absent)))[0]
    # MLX's fused kernel on a GPU; for other dtypes on a CPU its formula, operation by operation.
    logits = logits.astype(mx.float32)
    if absent == 1:
        return mx.fast.cross_entropy(logits, targets)
    last, more = logits.shape[-1] - 1, math.log(absent)
    logits = logits + mx.where(mx.arange(last + 1) == last, more, 0.0)
    # As a target, the shared row is one of its ids, not all of them.
    return mx.fast.cross_entropy(logits, targets) + mx.where(targets == last, more, 0.0)


def norm_linear(
    x: mx.array, scale: mx.array, shift: mx.array, eps: float, weight: mx.array, bias: mx.array
) -> mx.array:
    """linear(layer_norm(x, scale, shift, eps), weight, bias), keeping less for the gradient."""
    if not _on_cpu(x):
        return linear(layer_norm(x, scale, shift, eps), weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    flat = cpu.norm_affine(flat, scale, shift, mx.array(eps), weight, bias)[0]
    return flat.reshape(*x.shape[:-1], -1)


def head_loss(
    states: mx.array, weight: mx.array, targets: mx.array, shares: mx.array, absent: int = 1
) -> tuple[mx.array, mx.array]:
    """The sum over rows of shares (N,) times cross_entropy(linear(states, weight), targets).

    Also the losses (N,) themselves, which have no gradient.
    """
    if _on_cpu(states):
        loss, _, _, nll = cpu.head_loss(states, weight, targets, shares, mx.array(float(absent)))
        return loss, nll
    nll = cross_entropy(linear(states, weight), targets, absent)
    return (nll * shares).sum(), mx.stop_gradient(nll)


def _on_cpu(x: mx.array) -> bool:
    """Whether the CPU's formulas serve `x`: they are float32 only, as training on a CPU is."""
    return x.dtype == mx.float32 and not on_gpu()
