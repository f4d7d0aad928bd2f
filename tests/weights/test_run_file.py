"""A run's weights file is read only where its ids and window are sound."""

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY

from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.weights import model_from_run
from mlx_shakegpt.weights.run_file import CLOSED_IDS, TRAINED_CONTEXT, run_tensors
from mlx_shakegpt.weights.safetensors import save_tensors

OWN = np.array([3, 17, 4000, 50256], np.int32)


@pytest.fixture
def tensors():
    vocabulary = Vocabulary(OWN)
    return run_tensors(GPT(TINY, vocabulary.rows), vocabulary, 64)


def test_a_runs_weights_come_back(tensors, tmp_path):
    save_tensors(tmp_path / "run.safetensors", tensors)
    read = model_from_run(tmp_path / "run.safetensors", TINY)
    assert read.vocabulary.own.tolist() == OWN.tolist() and read.context == 64


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0, 1, 0, 1], np.uint32),  # whose differences, as unsigned ones, are positive
        np.array([3.0, 3.1, 3.2, 4.0], np.float32),
        np.array([3, 3, 4, 5], np.int32),
        np.array([3, 60_000, 4, 5], np.int32),
        np.array([3, 4, 5, 50_257], np.int64),
        np.array([-1, 4, 5, 6], np.int32),
        np.array([[3, 4, 5, 6]], np.int32),
        np.array([True, False, True, True]),
        np.zeros(0, np.int32),
    ],
    ids=str,
)
def test_ids_that_do_not_ascend_within_the_vocabulary_are_refused(tensors, tmp_path, ids):
    tensors[CLOSED_IDS] = mx.array(ids)
    save_tensors(tmp_path / "run.safetensors", tensors)
    with pytest.raises(ValueError, match="damaged closed_ids; they must ascend"):
        model_from_run(tmp_path / "run.safetensors", TINY)


@pytest.mark.parametrize(
    "context", [[np.inf], [np.nan], [64.0], [1], [65], [64, 64], [[64, 3]]], ids=str
)
def test_a_window_that_the_model_has_not_is_refused(tensors, tmp_path, context):
    tensors[TRAINED_CONTEXT] = mx.array(context)
    save_tensors(tmp_path / "run.safetensors", tensors)
    with pytest.raises(ValueError, match="no sound trained_context"):
        model_from_run(tmp_path / "run.safetensors", TINY)
