"""Model weights on disk, as a run keeps them and as Hugging Face and mlx-lm read them.

Safetensors only. Every file is checked against what the model expects before MLX reads it. Knows
nothing of training.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from .config import ModelConfig
from .corpus import Vocabulary
from .files import atomic_path
from .model import GPT
from .trees import flat

# Tensors of a run's weights beside the parameters: Vocabulary.own, and the longest trained window.
CLOSED_IDS, TRAINED_CONTEXT = "closed_ids", "trained_context"
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
_BYTES |= {"U64": 8, "I16": 2, "U16": 2, "I8": 1}


@dataclass(frozen=True)
class Speaker:
    """A model ready to speak: its rows are ids, or with `vocabulary` those of a closed one.

    `context` is the longest window that was trained; positions beyond it mean nothing.
    """

    model: GPT
    vocabulary: Vocabulary | None
    context: int

    def rows(self, ids: list[int]) -> list[int]:
        """Rows of some ids. Raises ValueError for an id outside the tokenizer's range."""
        total = self.model.config.vocab_size
        if bad := [i for i in ids if not 0 <= i < total]:
            raise ValueError(f"token id {bad[0]} is outside the vocabulary of {total}")
        return self.vocabulary.close(np.array(ids, int)).tolist() if self.vocabulary else ids

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


def save_tensors(path: Path, tensors: Mapping[str, mx.array]) -> None:
    """Writes a safetensors file whole or not at all. Raises OSError where the disk is full."""
    with atomic_path(path) as temporary:
        try:
            mx.save_safetensors(str(temporary), dict(tensors), metadata={"format": "pt"})
            # MLX does not notice a disk that fills up while it writes.
            check_tensors(temporary)
        except (RuntimeError, ValueError) as error:
            raise OSError(errno.ENOSPC, f"cannot write it whole ({error})", str(path)) from None


def load_tensors(path: Path) -> dict[str, mx.array]:
    """The tensors of a safetensors file. Raises FileNotFoundError, or ValueError if damaged."""
    check_tensors(path)
    try:
        return dict(mx.load(str(path), format="safetensors"))  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None


def check_tensors(path: Path) -> None:
    """Checks a safetensors file's header against its size; MLX itself trusts the header.

    Raises FileNotFoundError, or ValueError saying what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such weights file", str(path))
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path} is cut short or is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = []
            for name, entry in header.items():
                start, end = map(int, entry["data_offsets"])
                count = 1
                for extent in entry["shape"]:
                    if not isinstance(extent, int) or extent < 0:
                        raise ValueError(f"tensor {name!r} has shape {entry['shape']}")
                    count *= extent
                if end - start != count * _BYTES[entry["dtype"]]:
                    raise ValueError(f"tensor {name!r} does not fill its bytes")
                spans.append((start, end))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged safetensors header: {error}") from None
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise ValueError(
                f"{path} has a damaged safetensors header: tensors leave gaps or overlap"
            )
        position = end
    if 8 + length + position != size:
        raise ValueError(f"{path} is cut short: {size} bytes instead of {8 + length + position}")


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
    model = GPT(config, vocabulary.rows if vocabulary else None)
    fill(model, tensors, path)
    return Speaker(model, vocabulary, context)


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
    """Reads a folder that `export` wrote, or one of the same layout."""
    config, context = model_config_from_hf(folder)
    path = folder / "model.safetensors"
    tensors = load_tensors(path)
    model = GPT(config)
    fill(model, {k: v.T if k.endswith(CONV1D) else v for k, v in tensors.items()}, path)
    mx.eval(model.parameters())
    return Speaker(model, None, context)


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
