"""The tensors of a GPT-2 as Hugging Face, mlx-lm and others name and lay them out, and as we do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..model.language_model import LanguageModel
from ..model.trees import flat

MLX_PREFIX = "model."  # of mlx-lm's own files, whose matrices are (out, in)
HF_PREFIX = "transformer."  # of a model with its head; without it the same tensors stand alone
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that older files carry along
HEAD = "lm_head.weight"


def full_tensors(model: LanguageModel) -> dict[str, mx.array]:
    """All parameters with the whole vocabulary, in Hugging Face's names and Conv1D layout."""
    tensors = flat(model.gpt.parameters())
    if model.vocabulary:
        tensors["wte.weight"] = model.expand(tensors["wte.weight"].T).T
    return {
        name: mx.contiguous(value.T if name.endswith(CONV1D) else value)
        for name, value in tensors.items()
    }


def plain_tensors(
    tensors: Mapping[str, mx.array], quantization: object, path: Path
) -> dict[str, mx.array]:
    """A GPT-2's tensors in our names and layout, from any of those that are in use.

    `quantization` is config.json's. Raises ValueError where a head is not the embedding, or a
    quantised tensor does not fit the settings.
    """
    if all(name.startswith(MLX_PREFIX) for name in tensors):
        tensors = {name.removeprefix(MLX_PREFIX): value for name, value in tensors.items()}
        return _dequantized(tensors, quantization, path)
    plain = {}
    for name, value in tensors.items():
        own = name.removeprefix(HF_PREFIX)
        if own.endswith(MASKS):
            continue
        if own in plain:
            raise ValueError(f"{path} has {own} twice")
        plain[own] = value.T if own.endswith(CONV1D) else value
    head, table = plain.pop(HEAD, None), plain.get("wte.weight")
    if head is not None and table is not None and not mx.array_equal(head, table):
        raise ValueError(f"{path} has a head of its own; GPT-2's is tied to its embedding")
    return plain


def layer_settings(quantization: object, layer: str) -> Any:
    """A layer's own entry of config.json's `quantization`, else what holds for all layers."""
    by_layer = quantization if isinstance(quantization, dict) else {}
    return by_layer.get(f"{MLX_PREFIX}{layer}", by_layer)


def _dequantized(
    tensors: Mapping[str, mx.array], quantization: object, path: Path
) -> dict[str, mx.array]:
    """Tensors with those that mlx-lm quantised (affine, in groups) as floating-point numbers.

    Raises ValueError where the settings of config.json do not fit them.
    """
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith(".scales")]:
        layer = name.removesuffix(".scales")
        settings = layer_settings(quantization, layer)
        try:
            if settings.get("mode", "affine") != "affine":
                raise ValueError(f"its mode is {settings['mode']!r}, not 'affine'")
            weight, scales, biases = (
                plain.pop(f"{layer}.{part}") for part in ("weight", "scales", "biases")
            )
            size, bits = settings["group_size"], settings["bits"]
            plain[f"{layer}.weight"] = mx.dequantize(weight, scales, biases, size, bits)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be dequantised at {layer}: {error}") from None
    return plain
