"""GPT-2 and nothing else, in Hugging Face's names, with mlx-lm's cache protocol."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from ..settings.config import ModelConfig
from ..text.vocabulary import within
from . import ops
from .ops.block import compiled, eager


class LayerNorm(nn.LayerNorm):
    def __call__(self, x: mx.array) -> mx.array:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """The projections of causal multi-head self-attention: to q, k and v, and back."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.c_attn = nn.Linear(C, 3 * C)
        self.c_proj = nn.Linear(C, C)


class MLP(nn.Module):
    """The projections of the feed-forward part: to four times the width, and back after a GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.n_embd
        self.c_fc = nn.Linear(C, 4 * C)
        self.c_proj = nn.Linear(4 * C, C)


class Block(nn.Module):
    """Pre-norm transformer block: x + attn(ln_1(x)), then that + mlp(ln_2(that))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array, mask: Any, cache: Any, last: int | None = None) -> mx.array:
        """States (B, T, C), or with `last` only those of that many last positions."""
        block = eager if cache is None else compiled
        q, k, v = block.norm_qkv(x, self.ln_1, self.attn.c_attn, self.n_head)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)
        if last:
            q, x = q[:, :, -last:], x[:, -last:]
        x = x + block.linear(ops.attention(q, k, v, mask), self.attn.c_proj)
        return x + block.norm_mlp(x, self.ln_2, self.mlp)


class GPT(nn.Module):
    """GPT-2 (Radford et al., 2019): learned positions, tied head, tanh GELU.

    `rows` is the number of rows of `wte` where it is not the whole vocabulary: a closed one
    (text.vocabulary.Vocabulary) has a row for each id of the text and a shared last one.
    """

    def __init__(self, config: ModelConfig, rows: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(rows or config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = [Block(config) for _ in range(config.n_layer)]
        self.ln_f = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.depth = config.n_layer  # blocks that are computed, of `use_blocks`
        # The layers drew their weights from MLX's random state, which only a computed draw would
        # settle: models whose weights are replaced at once would leave an ever longer chain.
        mx.eval(mx.random.state[0])  # type: ignore[index]

    @property
    def layers(self) -> list[Block]:
        """The blocks, under the name that mlx-lm asks for."""
        return self.h

    def use_blocks(self, depth: int) -> None:
        """Computes and trains the first `depth` blocks; the others, if any, are frozen, and must be
        the identity."""
        self.depth = min(depth, len(self.h))
        for layer, block in enumerate(self.h):
            (block.unfreeze if layer < depth else block.freeze)()

    def checked_ids(self, ids: mx.array | np.ndarray) -> mx.array:
        """Ids, or a closed vocabulary's rows, of any shape, for `hidden`: int32, on the device.

        Raises ValueError for one that `wte` has no row for: MLX itself does not check, and reads
        foreign memory. The argument of a function that is being compiled has no value to look at
        and is let through; check it before.
        """
        try:
            held = np.asarray(ids)
        except ValueError:
            return ids  # type: ignore[return-value]  # numpy's own always have values
        return mx.array(within(held, self.wte.weight.shape[0]).astype(np.int32))

    def hidden(
        self, ids: mx.array, cache: list[Any] | None = None, last: int | None = None
    ) -> mx.array:
        """Normalised last states (B, T, C) of checked ids (B, T), after those in `cache`.

        With `last`, only those of that many last positions, which saves most of the last block.

        Raises ValueError where the positions would run past the position table, as `checked_ids`
        does for ids.
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
        top = self.depth - 1
        for layer, block in enumerate(self.h[: self.depth]):
            kept = last if layer == top else None
            x = block(x, mask, cache[layer] if cache else None, kept)
        return self.ln_f(x)

    def head(self, states: mx.array) -> mx.array:
        """Logits (…, rows) of last states (…, C); the head is `wte`."""
        return ops.linear(states, self.wte.weight)

    def __call__(self, ids: mx.array | np.ndarray, cache: list[Any] | None = None) -> mx.array:
        """Logits (B, T, rows) of ids (B, T). Raises as `checked_ids` and `hidden`."""
        return self.head(self.hidden(self.checked_ids(ids), cache))
