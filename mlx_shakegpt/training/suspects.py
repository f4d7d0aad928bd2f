"""What a reading of MLX's sources suspects to be slow on a GPU, as it is and as it could be.

Knows nothing of terminals; `survey` puts the figures into a report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ..model import ops
from ..model.gpt import GPT
from ..model.trees import flat
from ..runtime.stopwatch import compared, launch_seconds
from ..settings.config import ModelConfig
from ..settings.presets import preset
from .optimizer import global_norm

ROWS, MULTIPLE = 11_707, 64  # of the head that Tiny Shakespeare has
LEAST_TOKENS, MOST_TOKENS = 8, 4096
Variants = dict[str, Callable[[], Any]]


def norm(dtype: str, _tokens: int) -> Variants:
    """The norm of all gradients of GPT-2 124M, 98 of which are vectors."""
    gradients = {
        name: mx.zeros(shape, getattr(mx, dtype))
        for name, shape in _shapes(preset("gpt2-124m").model).items()
    }
    mx.eval(gradients)
    one_by_one = mx.compile(lambda arrays: global_norm(arrays, joined=False))
    end_to_end = mx.compile(lambda arrays: global_norm(arrays, joined=True))
    return {
        "vectors one by one": lambda: one_by_one(gradients),
        "vectors end to end": lambda: end_to_end(gradients),
    }


def head(dtype: str, tokens: int) -> Variants:
    """The head's loss and gradients with a row for each id and one shared, or some more rows."""
    padded = -(-ROWS // MULTIPLE) * MULTIPLE
    return {f"{rows:,} rows": _head_of(rows, dtype, tokens) for rows in (ROWS, padded)}


def embedding(dtype: str, tokens: int) -> Variants:
    """The embedding's gradient, added up at the weights' precision or in float32."""
    ids = mx.array(np.random.default_rng(0).integers(0, ROWS, tokens).astype(np.int32))
    width = preset("gpt2-124m").model.n_embd
    variants: Variants = {}
    for sums in dict.fromkeys((dtype, "float32")):
        table = mx.zeros((ROWS, width), getattr(mx, sums))
        above = mx.ones((tokens, width), getattr(mx, sums))
        mx.eval(table, above)
        variants[f"sums in {sums}"] = lambda t=table, g=above: mx.vjp(  # type: ignore[misc]
            lambda t: t[ids], [t], [g]
        )[1]
    return variants


SUSPECTS: dict[str, Callable[[str, int], Variants]] = {
    "norm of all gradients": norm,
    "head and its loss": head,
    "embedding's gradient": embedding,
}


def timed(name: str, dtype: str, gflops: float, limit: float) -> dict[str, Any]:
    """Median `seconds` of each variant of a suspect; where its work depends on them, with so many
    `tokens` that a device of that speed takes each several times within the limit."""
    tokens, width = MOST_TOKENS, preset("gpt2-124m").model.n_embd
    while tokens > LEAST_TOKENS and 6 * tokens * ROWS * width / gflops / 1e9 > limit / 8:
        tokens //= 2
    variants = SUSPECTS[name]
    figures = {} if variants is norm else {"tokens": tokens}
    return figures | {"seconds": compared(variants(dtype, tokens), limit)}


def launches(limit: float) -> dict[str, Any]:
    """Seconds from one small operation to the next that waits for it."""
    return {"seconds": {"one operation": launch_seconds(limit)}}


def _head_of(rows: int, dtype: str, tokens: int) -> Callable[[], Any]:
    width, kind = preset("gpt2-124m").model.n_embd, getattr(mx, dtype)
    key = mx.random.key(0)
    states = mx.random.normal((tokens, width), key=key).astype(kind)
    weight = mx.random.normal((rows, width), scale=0.02, key=key).astype(kind)
    targets, shares = mx.arange(tokens) % ROWS, mx.full(tokens, 1 / tokens)
    mx.eval(states, weight, targets, shares)
    gradients = mx.compile(
        mx.grad(lambda s, w: ops.head_loss(s, w, targets, shares)[0], argnums=(0, 1))
    )
    return lambda: gradients(states, weight)


def _shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by name; none of them is computed."""
    return {name: value.shape for name, value in flat(GPT(model, ROWS).parameters()).items()}
