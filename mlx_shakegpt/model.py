"""GPT-2 and nothing else, in Hugging Face's names, with mlx-lm's cache protocol.

Knows nothing of tokens' meaning, of training or of files.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten

from . import ops
from .config import ModelConfig
from .trees import flat

INIT_STD = 0.02


class LayerNorm(nn.LayerNorm):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def into(self, linear: nn.Linear, x: mx.array) -> mx.array:
        """linear(self(x)), keeping less for the gradient."""
        return ops.norm_linear(x, self.weight, self.bias, self.eps, linear.weight, linear.bias)


class Linear(nn.Linear):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.n_head = config.n_head
        self.c_attn = Linear(C, 3 * C)
        self.c_proj = Linear(C, C)

    def __call__(
        self, x: mx.array, norm: LayerNorm, mask: Any, cache: Any, last: int | None
    ) -> mx.array:
        q, k, v = ops.split_heads(norm.into(self.c_attn, x), self.n_head)  # each (B, H, T, D)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        if last:
            q = q[:, :, -last:]
        return self.c_proj(ops.attention(q, k, v, mask))


class MLP(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.c_fc = Linear(C, 4 * C)
        self.c_proj = Linear(4 * C, C)

    def __call__(self, x: mx.array, norm: LayerNorm) -> mx.array:
        x = norm.into(self.c_fc, x)
        return ops.gelu_linear(x, self.c_proj.weight, self.c_proj.bias)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, mask: Any, cache: Any, last: int | None = None) -> mx.array:
        """States (B, T, C), or with `last` only those of that many last positions."""
        y = self.attn(x, self.ln_1, mask, cache, last)
        x = (x[:, -last:] if last else x) + y
        return x + self.mlp(x, self.ln_2)


class GPT(nn.Module):
    """GPT-2 (Radford et al., 2019): learned positions, tied head, tanh GELU.

    `rows` is the number of rows of `wte` where it is not the whole vocabulary: a closed
    vocabulary (corpus.Vocabulary) has one row for each id of the text and a shared last one.
    """

    def __init__(self, config: ModelConfig, rows: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(rows or config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    @property
    def layers(self) -> list[Block]:
        """The blocks, under the name that mlx-lm asks for."""
        return self.h

    def hidden(
        self, ids: mx.array, cache: list[Any] | None = None, last: int | None = None
    ) -> mx.array:
        """Normalised last states (B, T, C) of ids (B, T), after those already in `cache`.

        With `last`, only those of that many last positions, which saves most of the last block.

        Raises ValueError where the positions would run past the position table: MLX itself does
        not check, and reads foreign memory. Ids are checked where they enter, on the host.
        """
        T = ids.shape[1]
        start = cache[0].offset if cache else 0
        if isinstance(start, int) and start + T > self.config.n_positions:
            raise ValueError(
                f"{start + T} positions are more than the model's {self.config.n_positions}; "
                "shorten the context"
            )
        positions = mx.arange(T) + (mx.array(start)[..., None] if cache else 0)
        x = self.wte(ids) + self.wpe(positions)
        mask = cache[0].make_mask(T, return_array=False, window_size=None) if cache else "causal"
        top = len(self.h) - 1
        for layer, block in enumerate(self.h):
            kept = last if layer == top else None
            x = block(x, mask, cache[layer] if cache else None, kept)
        return self.ln_f(x)

    def head(self, states: mx.array) -> mx.array:
        """Logits (…, rows) of last states (…, C); the head is `wte`."""
        return ops.linear(states, self.wte.weight)

    def __call__(self, ids: mx.array, cache: list[Any] | None = None) -> mx.array:
        """Logits (B, T, rows) of ids (B, T)."""
        return self.head(self.hidden(ids, cache))


def initialise(model: GPT, seed: int) -> None:
    """GPT-2's initialisation: N(0, 0.02), residual projections 0.02/√(2L), zero biases."""
    residual_std = INIT_STD / (2 * model.config.n_layer) ** 0.5
    parameters = sorted(flat(model.parameters()).items())
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    values = []
    for (name, old), key in zip(parameters, keys, strict=True):
        if name.endswith("bias"):
            new = mx.zeros(old.shape)
        elif ".ln_" in name or name.startswith("ln_"):
            new = mx.ones(old.shape)
        else:
            std = residual_std if name.endswith("c_proj.weight") else INIT_STD
            new = std * mx.random.normal(old.shape, key=key)
        values.append((name, new.astype(old.dtype)))
    model.update(tree_unflatten(values))
    mx.eval(model.parameters())
