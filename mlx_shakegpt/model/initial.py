"""A GPT-2's weights before training: its own initialisation, and one that memorises sooner."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from .gpt import GPT
from .trees import flat

INIT_STD = 0.02
_TABLE_SEED = 0  # of the look-back table's frequencies, the same for all models of one head size
# The logit of the place that a head looks back to, in each of the first blocks; others' are much
# lower. States grow in training, fourteenfold before the third block of GPT-2 124M, and LayerNorm
# divides this logit by the square of their growth.
_PEAKS = (128.0, 8192.0, 8192.0)
_FARTHEST = 64  # tokens back; a head that looks beyond its window attends to something arbitrary


def initialise(
    model: GPT,
    seed: int,
    zero_residual: bool = False,
    positions: str = "learned",
    logit_gain: float = 1.0,
) -> None:
    """GPT-2's initialisation: N(0, 0.02), residual projections 0.02/√(2L), zero biases.

    With `zero_residual` those projections are zero, so that blocks start as the identity
    (Goyal et al., 2017; Zhang et al., 2019). `positions` other than "learned" are a table that is
    no trainable parameter: "sinusoid" (Vaswani et al., 2017), or "look-back", by which the heads of
    the first three blocks begin by looking so and so many tokens back. `logit_gain` is the last
    LayerNorm's gain: with a gain of 1, a state that points exactly at a row of `wte` gives it a
    logit of 0.02 C, others less, and to be sure among ten thousand ids takes more than that.
    """
    residual_std = 0.0 if zero_residual else INIT_STD / (2 * model.config.n_layer) ** 0.5
    parameters = sorted(flat(model.parameters()).items())
    keys = mx.random.split(mx.random.key(seed), len(parameters))
    values = {}
    for (name, old), key in zip(parameters, keys, strict=True):
        if name.endswith("bias"):
            new = mx.zeros(old.shape)
        elif ".ln_" in name or name.startswith("ln_"):
            new = mx.ones(old.shape)
        else:
            std = residual_std if name.endswith("c_proj.weight") else INIT_STD
            new = std * mx.random.normal(old.shape, key=key)
        values[name] = new
    values["ln_f.weight"] = logit_gain * values["ln_f.weight"]
    if positions == "sinusoid":
        values["wpe.weight"] = sinusoids(*values["wpe.weight"].shape)
    elif positions == "look-back":
        _look_back(values, model.config.n_head)
    dtypes = {name: old.dtype for name, old in parameters}
    model.update(tree_unflatten([(n, v.astype(dtypes[n])) for n, v in values.items()]))
    if positions != "learned":
        model.wpe.freeze()
    mx.eval(model.parameters())


def sinusoids(rows: int, columns: int) -> mx.array:
    """A position table (rows, columns), float32, of Vaswani et al., 2017, section 3.5: sines in
    the first half of the columns, cosines in the second, with GPT-2's standard deviation."""
    frequencies = 10_000.0 ** (-2 / columns * np.arange((columns + 1) // 2))
    return mx.array(_waves(rows, frequencies)[:, :columns])


def _waves(rows: int, frequencies: np.ndarray) -> np.ndarray:
    angles = np.arange(rows)[:, None] * frequencies
    waves = np.concatenate([np.sin(angles), np.cos(angles)], 1)
    return (INIT_STD * 2**0.5 * waves).astype(np.float32)


def _look_back(values: dict[str, mx.array], n_head: int) -> None:
    """Gives each state the tokens before it from the first step on, which tell a place in a text;
    GPT-2 has to find out about looking back first.

    As many columns as a head has, the last ones, are for positions alone (`position_masks`): sines
    and cosines of random frequencies (Rahimi and Recht, 2007), so that any two rows are nearly
    orthogonal. Keys are positions, and a query is the position turned as many places back as its
    head looks: 1 to H in the first of H heads' blocks, so that a state has H + 1 tokens; multiples
    of H + 1 in the second, which puts such states side by side; and H + 2 to 2H + 1 in the third,
    for the tokens that a speaker's name has moved just out of reach. (Attention patterns as initial
    weights: Trockman and Kolter, 2023, arXiv:2305.09828.)
    """
    rows, C = values["wpe.weight"].shape
    pairs = _pairs(C, n_head)
    frequencies = np.random.default_rng(_TABLE_SEED).uniform(0, math.pi, pairs)
    table = np.zeros((rows, C), np.float32)
    table[:, C - 2 * pairs :] = _waves(rows, frequencies)
    values["wpe.weight"] = mx.array(table)
    for block, (places, peak) in enumerate(zip(_places_back(n_head), _PEAKS, strict=True)):
        name = f"h.{block}.attn.c_attn.weight"
        if name in values:
            values[name] = mx.array(_turned(np.array(values[name]), frequencies, places, peak))
    for name, mask in position_masks(values, n_head).items():
        values[name] = values[name] * mask


def _places_back(n_head: int) -> tuple[np.ndarray, ...]:
    """How many tokens back the heads look, (H,) for each of the first blocks.

    The second block's heads that would look farther than `_FARTHEST` take the places that follow
    the third block's instead.
    """
    near = 1 + np.arange(n_head)
    multiples = (n_head + 1) * near
    multiples = multiples[multiples <= _FARTHEST]
    beyond = np.setdiff1d(2 * n_head + 2 + np.arange(2 * n_head), multiples)
    return near, np.append(multiples, beyond)[:n_head], n_head + 1 + near


def _pairs(columns: int, n_head: int) -> int:
    """Sines of positions, and cosines: with both a head's columns, but at most half of all."""
    return min(columns // n_head // 2, columns // 4)


def position_masks(shapes: Mapping[str, mx.array], n_head: int) -> dict[str, mx.array]:
    """For parameters of a look-back model, by name, 0 where one of them would read or write the
    columns of positions, else 1; shapes that go with the parameters'.

    Only the queries and keys of the blocks that look back read positions, and nothing writes into
    their columns. So what is learned at one place of a window holds at all, and need not be met at
    each. Weights that begin so stay so where gradients are multiplied by the masks.
    """
    C = shapes["wpe.weight"].shape[1]
    content = (mx.arange(C) < C - 2 * _pairs(C, n_head)).astype(mx.float32)
    queries_and_keys = mx.arange(3 * C)[:, None] < 2 * C
    look_back_blocks = len(_places_back(n_head))
    masks = {}
    for name in shapes:
        if name.endswith(("c_fc.weight", "wte.weight")):
            masks[name] = content[None]
        elif name.endswith("c_attn.weight"):
            looks_back = int(name.split(".")[1]) < look_back_blocks
            masks[name] = (
                mx.maximum(content[None], queries_and_keys) if looks_back else content[None]
            )
        elif name.endswith("c_proj.weight"):
            masks[name] = content[:, None]
        elif name.endswith("c_proj.bias"):
            masks[name] = content
    return masks


def _turned(
    weight: np.ndarray, frequencies: np.ndarray, places: np.ndarray, peak: float
) -> np.ndarray:
    """c_attn's weight, (3C, C), with keys that are positions and queries that are those of so many
    `places` back, (H,), where the logit is `peak`."""
    C, count, weight = weight.shape[1], len(frequencies), weight.copy()
    D = C // len(places)
    sine = np.arange(C - 2 * count, C - count)
    cosine = sine + count
    weight[: 2 * C] = 0
    # LayerNorm makes columns of 0.02's root mean square 1: a peak is D times the scale's square,
    # over the √D of attention.
    scale = (peak / D**0.5) ** 0.5
    for head, turn in enumerate(places[:, None] * frequencies):
        first = head * D + np.arange(count)
        second = first + count
        weight[first, sine], weight[first, cosine] = scale * np.cos(turn), -scale * np.sin(turn)
        weight[second, sine], weight[second, cosine] = scale * np.sin(turn), scale * np.cos(turn)
        weight[C + first, sine] = weight[C + second, cosine] = scale
    return weight
