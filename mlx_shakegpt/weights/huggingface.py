"""A model folder in Hugging Face's form: written here or elsewhere, whole or in shards.

Safetensors only. Every file is checked against what the model expects before MLX reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from ..files import read_json, sha256
from ..model.language_model import LanguageModel, built
from ..settings.config import GPT2_VOCAB_SIZE, ModelConfig
from ..text import assets, tokenizer
from .layout import MLX_PREFIX, layer_settings, plain_tensors
from .safetensors import check_tensors, load_tensors

MODEL, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
# What other settings of config.json mean is not what this GPT-2 computes.
COMPUTED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


def _config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json. Raises FileNotFoundError, or ValueError where it is damaged, or
    a run's."""
    data = read_json(folder / CONFIG)
    if "train" in data and "model_type" not in data:
        raise ValueError(f"{folder} is a run's folder; give the run's name as `run` instead")
    return data


def model_config_from_hf(folder: Path) -> tuple[ModelConfig, int]:
    """Model and trained context of a folder's config.json.

    Raises FileNotFoundError, or ValueError where it is not a GPT-2 that this program computes.
    """
    return _model_config(folder, _config(folder))


def _model_config(folder: Path, data: dict[str, Any]) -> tuple[ModelConfig, int]:
    path = folder / CONFIG
    if data.get("model_type") != "gpt2":
        raise ValueError(f"{folder} holds a {data.get('model_type')!r} model, not a gpt2")
    names = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "layer_norm_epsilon")
    if missing := [name for name in names if name not in data]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    config = ModelConfig(**{name: data[name] for name in names})
    for name, allowed in COMPUTED.items():
        if data.get(name, allowed[0]) not in allowed:
            raise ValueError(f"{path} has {name} {data[name]!r}; only {allowed[0]!r} is computed")
    if data.get("n_inner") not in (None, 4 * config.n_embd):
        raise ValueError(f"{path} has n_inner {data['n_inner']!r}, not {4 * config.n_embd}")
    if config.vocab_size != GPT2_VOCAB_SIZE:
        raise ValueError(f"{path} has a vocabulary of {config.vocab_size}, not GPT-2's")
    context = data.get("trained_context", config.n_positions)
    if not isinstance(context, int) or not 2 <= context <= config.n_positions:
        raise ValueError(f"{path} has trained_context {context!r}")
    return config, context


def model_from_hf(folder: Path) -> LanguageModel:
    """Reads a folder that `export`, mlx-lm or transformers wrote.

    Quantised weights are computed with as the numbers that they stand for. Raises
    FileNotFoundError, or ValueError where the folder is not a sound GPT-2 with GPT-2's encoding.
    """
    data = _config(folder)
    config, context = _model_config(folder, data)
    _must_encode_as_gpt2(folder)
    files = weights_files(folder)
    tensors: dict[str, mx.array] = {}
    for file in files:
        tensors |= load_tensors(file)
    tensors = plain_tensors(tensors, data.get("quantization"), files[0])
    return LanguageModel(built(config, config.vocab_size, tensors, files[0]), None, context)


def weights_files(folder: Path) -> tuple[Path, ...]:
    """The folder's weights, one file or its shards in order.

    Raises ValueError where there are none, or where the index names a file outside the folder.
    """
    if (folder / MODEL).is_file():
        return (folder / MODEL,)
    if not (folder / INDEX).is_file():
        other = next(folder.glob("*.bin"), None)
        why = (
            f"{other.name} may run code when it is read; save it as safetensors"
            if other
            else ("give a folder that export or save_pretrained wrote")
        )
        raise ValueError(f"{folder} has no {MODEL}; {why}")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{folder / INDEX} is damaged: it has no weight_map")
    for name in shards.values():
        plain = isinstance(name, str) and Path(name).name == name
        if not plain or not name.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX} names a file outside its folder: {name!r}")
    return tuple(folder / name for name in sorted(set(shards.values())))


def weights_hash(files: tuple[Path, ...]) -> str:
    """The sha256 of a weights file, or of its shards' names and hashes in order."""
    if len(files) == 1:
        return sha256(files[0])
    return sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode())


def stored_dtype(files: tuple[Path, ...]) -> str:
    """How weights files keep the embedding: F32, BF16, or quantised, as their folder tells.

    Raises as check_tensors.
    """
    tensors = {name: entry for file in files for name, entry in check_tensors(file).items()}
    if f"{MLX_PREFIX}wte.scales" in tensors:
        settings = layer_settings(read_json(files[0].parent / CONFIG)["quantization"], "wte")
        return f"{settings['bits']} bits in groups of {settings['group_size']}"
    embeddings = [entry for name, entry in tensors.items() if name.endswith("wte.weight")]
    return str(embeddings[0]["dtype"]) if embeddings else "unknown"


def learned_text(folder: Path) -> dict[str, Any] | None:
    """The text that an exported model learned: name, sha256, first_line and tokens, if told. Raises
    as `model_config_from_hf` for what is no model's folder."""
    description = _config(folder).get("learned_text")
    kinds = {"name": str, "sha256": str, "first_line": int, "tokens": int}
    if not isinstance(description, dict) or any(
        type(description.get(k)) is not v for k, v in kinds.items()
    ):
        return None
    return {name: description[name] for name in kinds}


def _must_encode_as_gpt2(folder: Path) -> None:
    """Raises ValueError where the folder brings another tokenizer than GPT-2's."""
    for name in ("vocab.json", "tokenizer.json"):
        path = folder / name
        if not path.is_file() or sha256(path) == assets.GPT2_VOCABULARY.sha256:
            continue
        table: Any = read_json(path)
        if name == "tokenizer.json":
            model = table.get("model")
            table = model.get("vocab") if isinstance(model, dict) else None
        if table != tokenizer.vocabulary():
            raise ValueError(f"{path} is not GPT-2's encoding; its ids would mean other tokens")
