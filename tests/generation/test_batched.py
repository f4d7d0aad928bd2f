import numpy as np
import pytest
from conftest import TINY, opinionated

from mlx_shakegpt.generation.batched import Reader, corrected_recital, recital


def one_by_one(model, ids, k):
    """A corrected recital through the cache: each true id is read, and the next one is said."""
    reader, fed, said = Reader(model), ids[None, :k], []
    for true in ids[k:]:
        said.append(int(reader.read(fed, np.array([true], np.int32))[0][0]))
        fed = np.array([[true]], np.int32)
    return said


@pytest.mark.parametrize("k", [1, 7, 8, 15, 16, 17, 40])
@pytest.mark.parametrize("n", [41, 42, 60, 230])
def test_a_corrected_recital_says_a_windows_ids_as_if_one_by_one(k, n):
    model = opinionated(16)
    ids = np.random.default_rng(n).integers(0, TINY.vocab_size, n).astype(np.int32)
    assert list(corrected_recital(model, ids, k)) == one_by_one(model, ids, k)


def test_a_recital_without_corrections_goes_on_from_what_it_said():
    model = opinionated(16)
    ids = np.random.default_rng(3).integers(0, TINY.vocab_size, 50).astype(np.int32)
    said = list(recital(model, ids, 5))
    heard = np.concatenate([ids[:5], said]).astype(np.int32)
    assert said == one_by_one(model, heard, 5) and said != one_by_one(model, ids, 5)
