"""Writes a model as the folder that mlx-lm and transformers load, and proves that it loads.

Hugging Face's names without a prefix, Conv1D layout, tied head: the one layout that both read.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ..files import must_be_empty, sync
from ..model.language_model import LanguageModel
from ..model.trees import flat
from ..settings.errors import NotReached
from ..text import assets, tokenizer
from ..weights import full_tensors, model_from_hf
from ..weights.huggingface_files import json_files, write_json
from ..weights.safetensors import save_tensors

# Largest difference of reloaded logits, as a share of the largest, or of 1 if that is less.
TOLERANCE = {mx.float32: 1e-4, mx.float16: 0.01, mx.bfloat16: 0.05}
GROUPS = (64, 32)  # weights that share a scale, the first that divides the width
PROBE_TEXT = "ROMEO:\nBut, soft! what light through yonder window breaks?"


class ExportError(NotReached):
    """A written folder did not load, or not to the same model."""


def export(
    language_model: LanguageModel,
    folder: Path,
    dtype: str = "float32",
    text: Mapping[str, Any] | None = None,
    bits: int | None = None,
    more: Mapping[str, str] | None = None,
) -> float:
    """Writes `folder`, reloads it with mlx-lm, and returns the largest difference of its logits.

    `text` has name, sha256, first_line and tokens of what the model learned, for the record. With
    `bits`, 4 or 8, weights are quantised in mlx-lm's way, which transformers does not read; their
    logits are compared with those of the same weights dequantised. `more` are further files by
    name. The folder appears, or where it is there and empty is filled, only when all has proved
    good. Raises ValueError where it exists and is not empty, or the model's width does not allow
    quantisation; ExportError where the comparison fails.
    """
    must_be_empty(folder)
    folder = folder.resolve()  # a link keeps its place, and "." gets a parent
    place = folder if folder.exists() else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    writing = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=place))
    try:
        kind = getattr(mx, dtype)
        tensors = {name: value.astype(kind) for name, value in full_tensors(language_model).items()}
        save_tensors(writing / "model.safetensors", tensors)
        files = json_files(language_model.gpt.config, language_model.context, dtype)
        if text:
            names = ("name", "sha256", "first_line", "tokens")
            files["config.json"]["learned_text"] = {name: text[name] for name in names}
        for name, content in files.items():
            write_json(writing / name, content)
        for name, lines in (more or {}).items():
            (writing / name).write_text(lines, encoding="utf-8", newline="")
        shutil.copyfile(assets.ensure(assets.GPT2_VOCABULARY), writing / "vocab.json")
        shutil.copyfile(assets.ensure(assets.GPT2_MERGES), writing / "merges.txt")
        if bits:
            _quantize(writing, bits, language_model.gpt.config.n_embd)
        difference = _compare(model_from_hf(writing) if bits else language_model, writing, kind)
        for file in writing.iterdir():
            sync(file)
        if place == folder:
            _move(writing, folder)
        else:
            writing.chmod(0o755)
            os.rename(writing, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return difference


def _move(writing: Path, folder: Path) -> None:
    """Moves files into an existing folder, which may be someone's working directory or a mount.
    Nobody can load it before config.json, the last, is there."""
    for file in sorted(writing.iterdir(), key=lambda file: file.name == "config.json"):
        os.rename(file, folder / file.name)
    sync(folder)


def _quantize(folder: Path, bits: int, n_embd: int) -> None:
    """Quantises the model in `folder`, as mlx_lm.convert does."""
    from mlx_lm.utils import load_model, quantize_model

    sizes = [size for size in GROUPS if n_embd % size == 0]
    if not sizes:
        raise ValueError(f"n_embd is {n_embd}; to quantise it must be a multiple of {GROUPS[-1]}")
    model, config = load_model(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what is on record in the config
        model, config = quantize_model(model, config, sizes[0], bits)
    save_tensors(folder / "model.safetensors", flat(model.parameters()))
    write_json(folder / "config.json", config)


def _compare(language_model: LanguageModel, folder: Path, dtype: mx.Dtype) -> float:
    """Loads the folder with mlx-lm and compares ids and logits. Raises ExportError."""
    import mlx_lm

    try:
        model, their_tokenizer, *_ = mlx_lm.load(str(folder))
    except Exception as error:
        raise ExportError(f"mlx-lm cannot load what was written: {error}") from error
    ids = tokenizer.encode(PROBE_TEXT)[: language_model.context]
    if their_tokenizer.encode(PROBE_TEXT)[: language_model.context] != ids:
        raise ExportError("the exported tokenizer gives other ids than tiktoken")
    theirs = np.array(model(mx.array([ids])).astype(mx.float32))
    logits = language_model.expand(language_model.gpt(language_model.rows_of(ids)[None]))
    ours = np.array(logits.astype(mx.float32))
    difference = float(np.abs(theirs - ours).max())
    share = max(TOLERANCE[dtype], TOLERANCE[logits.dtype])
    if not difference <= share * max(1.0, float(np.abs(ours).max())):
        raise ExportError(f"the exported model's logits differ by {difference:.3g}")
    return difference
