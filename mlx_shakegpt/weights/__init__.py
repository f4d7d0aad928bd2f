"""Model weights on disk, as a run keeps them and as the rest of the world does."""

from .huggingface import (
    learned_text,
    model_config_from_hf,
    model_from_hf,
    stored_dtype,
    weights_files,
    weights_hash,
)
from .layout import CONV1D, full_tensors
from .run_file import CLOSED_IDS, TRAINED_CONTEXT, model_from_run, run_tensors

__all__ = [
    "CLOSED_IDS",
    "CONV1D",
    "TRAINED_CONTEXT",
    "full_tensors",
    "learned_text",
    "model_config_from_hf",
    "model_from_hf",
    "model_from_run",
    "run_tensors",
    "stored_dtype",
    "weights_files",
    "weights_hash",
]
