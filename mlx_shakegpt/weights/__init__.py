"""Model weights on disk, as a run keeps them and as the rest of the world does."""

from .huggingface import (
    learned_text,
    model_config_from_hf,
    speaker_from_hf,
    stored_dtype,
    weights_files,
    weights_hash,
)
from .layout import CONV1D, full_tensors
from .run_file import CLOSED_IDS, TRAINED_CONTEXT, run_tensors, speaker_from_run

__all__ = [
    "CLOSED_IDS",
    "CONV1D",
    "TRAINED_CONTEXT",
    "full_tensors",
    "learned_text",
    "model_config_from_hf",
    "run_tensors",
    "speaker_from_hf",
    "speaker_from_run",
    "stored_dtype",
    "weights_files",
    "weights_hash",
]
