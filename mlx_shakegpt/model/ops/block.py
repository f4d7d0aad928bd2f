"""What a transformer block does between its attention and its sums, as one operation each.

`eager` runs them as they are written, which is how a compiled training step takes them in.
`compiled` is for decoding: there is hardly time to dispatch operations one by one for a token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx import nn

from . import gelu_linear, linear, norm_linear, split_heads

Weights = Mapping[str, Any]  # a module is one, and within a compiled function it is no more


class BlockOps:
    """A block's operations, each put through `wrap`: a function of weights, which are arguments,
    so that what is compiled once serves all blocks of one shape."""

    def __init__(self, wrap: Callable[[Any], Any]) -> None:
        self._norm_qkv, self._linear, self._norm_mlp = map(wrap, (_norm_qkv, _linear, _norm_mlp))

    def norm_qkv(
        self, x: mx.array, norm: nn.LayerNorm, c_attn: nn.Linear, n_head: int
    ) -> Sequence[mx.array]:
        """q, k and v, (B, H, T, D) each: c_attn(norm(x)) of states x (B, T, C), by head."""
        return self._norm_qkv(x, norm, norm.eps, c_attn, n_head)

    def linear(self, x: mx.array, layer: nn.Linear) -> mx.array:
        """layer(x), (B, T, out), of x (B, T, in)."""
        return self._linear(x, layer)

    def norm_mlp(self, x: mx.array, norm: nn.LayerNorm, mlp: nn.Module) -> mx.array:
        """mlp(norm(x)), (B, T, C), of states x (B, T, C): c_proj(gelu(c_fc(norm(x))))."""
        return self._norm_mlp(x, norm, norm.eps, mlp)


def _norm_qkv(
    x: mx.array, norm: Weights, eps: float, c_attn: Weights, n_head: int
) -> Sequence[mx.array]:
    return split_heads(_norm_linear(x, norm, eps, c_attn), n_head)


def _linear(x: mx.array, layer: Weights) -> mx.array:
    return linear(x, layer["weight"], layer["bias"])


def _norm_mlp(x: mx.array, norm: Weights, eps: float, mlp: Weights) -> mx.array:
    c_proj = mlp["c_proj"]
    hidden = _norm_linear(x, norm, eps, mlp["c_fc"])
    return gelu_linear(hidden, c_proj["weight"], c_proj["bias"])


def _norm_linear(x: mx.array, norm: Weights, eps: float, layer: Weights) -> mx.array:
    return norm_linear(x, norm["weight"], norm["bias"], eps, layer["weight"], layer["bias"])


eager, compiled = BlockOps(lambda function: function), BlockOps(mx.compile)
