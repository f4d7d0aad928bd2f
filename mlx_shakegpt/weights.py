"""Model weights on disk, as a run keeps them and as Hugging Face and mlx-lm read them.

Safetensors only. Every file is checked against what the model expects before MLX reads it. Knows
nothing of training.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from .config import ModelConfig
from .corpus import Vocabulary
from .model import GPT
from .runtime import on_gpu
from .tensors import check_tensors, load_tensors
from .trees import flat

# Tensors of a run's weights beside the parameters: Vocabulary.own, and the longest trained window.
CLOSED_IDS, TRAINED_CONTEXT = "closed_ids", "trained_context"
MLX_PREFIX = "model."  # of mlx-lm's own files, whose matrices are (out, in)
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")


@dataclass(frozen=True)
class Speaker:
    """A model ready to speak: its rows are ids, or with `vocabulary` those of a closed one.

    `context` is the longest window that was trained; positions beyond it mean nothing.
    """

    model: GPT
    vocabulary: Vocabulary | None
    context: int

    def rows(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows, as many, of some ids; the model admits them or not. Raises ValueError for an id
        that a closed vocabulary does not know."""
        held = np.asarray(ids)
        return self.vocabulary.close(held) if self.vocabulary else held

    @cached_property
    def table(self) -> mx.array:
        """Row of each id, (vocab_size,) int32, on the device; for closed vocabularies."""
        assert self.vocabulary is not None
        return mx.array(self.vocabulary.table)

    @cached_property
    def ids(self) -> mx.array:
        """The id of each row, (rows,) int32; the shared row stands for the first absent id."""
        assert self.vocabulary is not None
        absent = np.setdiff1d(np.arange(self.vocabulary.total), self.vocabulary.own)[:1]
        return mx.array(np.append(self.vocabulary.own, absent).astype(np.int32))

    def expand(self, logits: mx.array) -> mx.array:
        """Logits (…, vocab_size) of logits (…, rows)."""
        if not self.vocabulary:
            return logits
        return logits[..., self.table]


def run_tensors(model: GPT, vocabulary: Vocabulary | None, context: int) -> dict[str, mx.array]:
    """The tensors of a run's weights file: parameters, trained context and, if closed, ids."""
    tensors = flat(model.parameters()) | {TRAINED_CONTEXT: mx.array([context])}
    if vocabulary:
        tensors[CLOSED_IDS] = mx.array(vocabulary.own)
    return tensors


def speaker_from_run(path: Path, config: ModelConfig) -> Speaker:
    """Reads a run's weights file. Raises ValueError where it does not fit the model."""
    tensors = load_tensors(path)
    vocabulary = None
    held = tensors.pop(TRAINED_CONTEXT, None)
    context = int(np.array(held).item()) if held is not None and held.size == 1 else 0
    if not 2 <= context <= config.n_positions:
        raise ValueError(f"{path} has no sound {TRAINED_CONTEXT}; it is not a run's weights file")
    if (own := tensors.pop(CLOSED_IDS, None)) is not None:
        ids = np.array(own)
        if ids.ndim != 1 or not (np.diff(ids) > 0).all() or not _within(ids, config.vocab_size):
            raise ValueError(
                f"{path} has damaged {CLOSED_IDS}; they must ascend within the vocabulary"
            )
        vocabulary = Vocabulary(ids.astype(np.int32), config.vocab_size)
    rows = vocabulary.rows if vocabulary else config.vocab_size
    _must_hold(tensors, config, rows, path)
    model = GPT(config, rows)
    fill(model, tensors, path)
    return Speaker(_computable(model), vocabulary, context)


def _must_hold(tensors: Mapping[str, mx.array], config: ModelConfig, rows: int, path: Path) -> None:
    """Raises ValueError where a model is larger than its tensors, before it takes any memory."""
    need = config.n_parameters - (config.vocab_size - rows) * config.n_embd
    held = sum(value.size for value in tensors.values())
    if need > held:
        raise ValueError(f"{path} does not fit the model: it has {held:,} numbers, not {need:,}")


def _computable(model: GPT) -> GPT:
    """The model at a precision that this device computes fast: a CPU's is float32."""
    if not on_gpu() and model.wte.weight.dtype != mx.float32:
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def fill(model: GPT, tensors: Mapping[str, mx.array], path: Path) -> None:
    """Puts tensors into a model. Raises ValueError where names or shapes differ from its own."""
    expected = {name: value.shape for name, value in flat(model.parameters()).items()}
    for name in sorted(expected.keys() | tensors.keys()):
        want, have = expected.get(name), tensors[name].shape if name in tensors else None
        if want != have:
            raise ValueError(
                f"{path} does not fit the model: {name} is {have or 'missing'}, "
                f"expected {want or 'no such tensor'}"
            )
    model.update(tree_unflatten(list(tensors.items())))


def full_tensors(speaker: Speaker) -> dict[str, mx.array]:
    """All parameters with the whole vocabulary, in Hugging Face's names and Conv1D layout."""
    tensors = flat(speaker.model.parameters())
    if speaker.vocabulary:
        tensors["wte.weight"] = speaker.expand(tensors["wte.weight"].T).T
    return {
        name: mx.contiguous(value.T if name.endswith(CONV1D) else value)
        for name, value in tensors.items()
    }


def model_config_from_hf(folder: Path) -> tuple[ModelConfig, int]:
    """Model and trained context of a Hugging Face folder's config.json."""
    data = read_json(folder / "config.json")
    if data.get("model_type") != "gpt2":
        raise ValueError(f"{folder} holds a {data.get('model_type')!r} model, not a gpt2")
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    if missing := [name for name in names if name not in data]:
        raise ValueError(f"{folder / 'config.json'} lacks {', '.join(missing)}")
    config = ModelConfig(**{name: data[name] for name in names})
    context = data.get("trained_context", config.n_positions)
    if not isinstance(context, int) or not 2 <= context <= config.n_positions:
        raise ValueError(f"{folder / 'config.json'} has trained_context {context!r}")
    return config, context


def speaker_from_hf(folder: Path) -> Speaker:
    """Reads a folder that `export` wrote, or one of the same layout.

    Quantised weights are computed with as the numbers that they stand for.
    """
    config, context = model_config_from_hf(folder)
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    if all(name.startswith(MLX_PREFIX) for name in tensors):
        tensors = {name.removeprefix(MLX_PREFIX): value for name, value in tensors.items()}
        tensors = dequantized(tensors, read_json(folder / "config.json").get("quantization"), path)
    else:
        tensors = {k: v.T if k.endswith(CONV1D) else v for k, v in tensors.items()}
    _must_hold(tensors, config, config.vocab_size, path)
    model = GPT(config)
    fill(model, tensors, path)
    return Speaker(_computable(model), None, context)


def dequantized(
    tensors: Mapping[str, mx.array], quantization: object, path: Path
) -> dict[str, mx.array]:
    """Tensors with those that mlx-lm quantised (affine, in groups) as floating-point numbers.

    Raises ValueError where the settings of config.json do not fit them.
    """
    plain = dict(tensors)
    for name in [name for name in tensors if name.endswith(".scales")]:
        layer = name.removesuffix(".scales")
        told = quantization if isinstance(quantization, dict) else {}
        settings = told.get(f"{MLX_PREFIX}{layer}", told)
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


def stored_dtype(path: Path) -> str:
    """How a weights file keeps the embedding: F32, BF16, or quantised, as its folder tells.

    Raises as check_tensors.
    """
    tensors = check_tensors(path)
    if f"{MLX_PREFIX}wte.scales" in tensors:
        told = read_json(path.parent / "config.json")["quantization"]
        return f"{told['bits']} bits in groups of {told['group_size']}"
    entry = tensors.get("wte.weight") or tensors.get(f"{MLX_PREFIX}wte.weight") or {}
    return str(entry.get("dtype", "unknown"))


def learned_text(folder: Path) -> dict[str, Any] | None:
    """The text that an exported model learned: name, sha256, first_line and tokens, if told."""
    told = read_json(folder / "config.json").get("learned_text")
    kinds = {"name": str, "sha256": str, "first_line": int, "tokens": int}
    if not isinstance(told, dict) or any(type(told.get(k)) is not v for k, v in kinds.items()):
        return None
    return {name: told[name] for name in kinds}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises FileNotFoundError, or ValueError if it is none."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: not a JSON object")
    return data


def _within(ids: np.ndarray, total: int) -> bool:
    return len(ids) > 0 and int(ids[0]) >= 0 and int(ids[-1]) < total
