"""A run's own weights file: the rows that it trained, their ids, and the trained context."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from ..model.gpt import GPT
from ..model.language_model import LanguageModel, built
from ..model.trees import flat
from ..settings.config import ModelConfig
from ..text.vocabulary import Vocabulary
from .safetensors import load_tensors

# Tensors beside the parameters: Vocabulary.own, and the longest trained window.
CLOSED_IDS, TRAINED_CONTEXT = "closed_ids", "trained_context"


def run_tensors(model: GPT, vocabulary: Vocabulary | None, context: int) -> dict[str, mx.array]:
    """The tensors of a run's weights file: parameters, trained context and, if closed, ids."""
    tensors = flat(model.parameters()) | {TRAINED_CONTEXT: mx.array([context])}
    if vocabulary:
        tensors[CLOSED_IDS] = mx.array(vocabulary.own)
    return tensors


def model_from_run(path: Path, config: ModelConfig) -> LanguageModel:
    """Reads a run's weights file. Raises ValueError where it does not fit the model."""
    tensors = load_tensors(path)
    vocabulary = None
    held = tensors.pop(TRAINED_CONTEXT, None)
    sound = held is not None and held.size == 1 and _integers(held)
    context = int(np.array(held).item()) if sound else 0
    if not 2 <= context <= config.n_positions:
        raise ValueError(f"{path} has no sound {TRAINED_CONTEXT}; it is not a run's weights file")
    if (own := tensors.pop(CLOSED_IDS, None)) is not None:
        # As int64, so that differences of unsigned ids do not wrap around.
        ids = np.array(own).astype(np.int64) if _integers(own) else np.zeros(0, np.int64)
        inside = ids.ndim == 1 and ids.size and ids.min() >= 0 and ids.max() < config.vocab_size
        if not inside or not (np.diff(ids) > 0).all():
            raise ValueError(
                f"{path} has damaged {CLOSED_IDS}; they must ascend within the vocabulary"
            )
        vocabulary = Vocabulary(ids.astype(np.int32), config.vocab_size)
    rows = vocabulary.rows if vocabulary else config.vocab_size
    return LanguageModel(built(config, rows, tensors, path), vocabulary, context)


def _integers(array: mx.array) -> bool:
    return mx.issubdtype(array.dtype, mx.integer)
