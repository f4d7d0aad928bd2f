"""Writes a model as one GGUF file, for llama.cpp and what is built on it.

Names and layout are llama.cpp's for the architecture "gpt2"; to quantise, it has tools of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from ..files import atomic_path, must_not_exist
from ..model.language_model import LanguageModel
from ..text import tokenizer
from ..text.tokenizer import END_OF_TEXT
from ..weights import CONV1D, full_tensors
from ..weights.layout import HF_PREFIX
from .export import ExportError

KINDS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # dtypes as GGUF calls them
OWN = "shakegpt"  # prefix of what GGUF has no name for
_WEIGHT, _BIAS = ".weight", ".bias"


def export_gguf(
    language_model: LanguageModel,
    path: Path,
    name: str,
    dtype: str = "float32",
    text: Mapping[str, Any] | None = None,
) -> int:
    """Writes `path`, reads it back, compares all of it bit for bit, and returns its tensors' count.

    Matrices are of `dtype`; vectors and the position table stay float32, as in llama.cpp's own
    conversions. `name` is what the model is called, and `text` has name, sha256, first_line and
    tokens of what it learned. Raises ValueError where the file exists or a weight has no place in
    float16, ImportError without the gguf package, and ExportError where the comparison fails.
    """
    must_not_exist(path)
    gguf = _package()
    tensors = _tensors(gguf, language_model, dtype)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    _add_settings(gguf, writer, language_model, name, dtype)
    _add_tokenizer(gguf, writer)
    writer.add_uint32(f"{OWN}.trained_context", language_model.context)
    if text:
        for key, add in (
            ("name", writer.add_string), ("sha256", writer.add_string),
            ("first_line", writer.add_uint32), ("tokens", writer.add_uint32),
        ):  # fmt: skip
            add(f"{OWN}.learned_text.{key}", text[key])
    for tensor, (data, kind) in tensors.items():
        writer.add_tensor(tensor, data, raw_dtype=kind)
    settings = {key: value.value for key, value in writer.kv_data[0].items()}
    with atomic_path(path) as temporary:
        try:
            writer.write_header_to_file(temporary)
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        _compare(gguf, temporary, settings, tensors)
        must_not_exist(path)  # which somebody may have made meanwhile
    return len(tensors)


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ImportError(
            "GGUF needs the gguf package; install it with: pip install 'mlx-shakegpt[gguf]'"
        ) from None
    return gguf


def _tensors(
    gguf: ModuleType, language_model: LanguageModel, dtype: str
) -> dict[str, tuple[np.ndarray, Any]]:
    """Data and kind of each tensor by llama.cpp's name, matrices as (out, in)."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, language_model.gpt.config.n_layer)
    tensors = {}
    for name, value in full_tensors(language_model).items():
        own = value.T if name.endswith(CONV1D) else value
        data = np.ascontiguousarray(np.array(own.astype(mx.float32)))
        plain = data.ndim == 1 or name.startswith("wpe.")
        kind = gguf.GGMLQuantizationType[KINDS["float32" if plain else dtype]]
        if kind.name == "F16" and (largest := np.abs(data).max()) > np.finfo(np.float16).max:
            raise ValueError(f"{name} has {largest:.3g}, too large for float16; take bfloat16")
        theirs = names.get_name(HF_PREFIX + name, try_suffixes=(_WEIGHT, _BIAS))
        tensors[theirs] = gguf.quants.quantize(data, kind), kind
    return tensors


def _add_settings(
    gguf: ModuleType, writer: Any, language_model: LanguageModel, name: str, dtype: str
) -> None:
    config = language_model.gpt.config
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    mostly = "ALL_F32" if dtype == "float32" else f"MOSTLY_{KINDS[dtype]}"
    writer.add_file_type(gguf.LlamaFileType[mostly])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.n_positions)  # llama.cpp reads the position table by it
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(float(np.float32(config.layer_norm_epsilon)))


def _add_tokenizer(gguf: ModuleType, writer: Any) -> None:
    """GPT-2's tokens in the order of their ids, its merges, and its one special token."""
    vocabulary = tokenizer.vocabulary()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    types = [int(gguf.TokenType.NORMAL)] * len(tokens)
    types[END_OF_TEXT] = int(gguf.TokenType.CONTROL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(tokenizer.merges())
    writer.add_bos_token_id(END_OF_TEXT)
    writer.add_eos_token_id(END_OF_TEXT)
    writer.add_add_bos_token(False)


def _compare(
    gguf: ModuleType,
    path: Path,
    settings: Mapping[str, Any],
    tensors: Mapping[str, tuple[np.ndarray, Any]],
) -> None:
    """Reads a file and compares it with what was to be written. Raises ExportError."""
    try:
        reader = gguf.GGUFReader(path)
        read = {key: field.contents() for key, field in reader.fields.items()}
    except (ValueError, IndexError) as error:
        raise ExportError(f"the written file cannot be read: {error}") from error
    for key, value in settings.items():
        if read.get(key) != value:
            raise ExportError(f"the written file has another {key}")
    written = {tensor.name: tensor for tensor in reader.tensors}
    if written.keys() != tensors.keys():
        raise ExportError("the written file has other tensors")
    for name, (data, kind) in tensors.items():
        there = written[name]
        same_bits = np.array_equal(there.data.view(np.uint8), data.view(np.uint8))
        if there.tensor_type != kind or not same_bits:
            raise ExportError(f"{name} differs in the written file")
