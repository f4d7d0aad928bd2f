"""A step, whole and as the two halves around an exchange among ranks."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, tiny_training

from mlx_shakegpt.model import ops
from mlx_shakegpt.model.trees import flat
from mlx_shakegpt.runtime import ranks as runtime_ranks
from mlx_shakegpt.runtime.ranks import ALONE, Ranks
from mlx_shakegpt.training import Trainer, optimizer, step
from mlx_shakegpt.training.step import Step


class Twins(Ranks):
    """The first of two ranks; the other one always has the same as this one."""

    def __init__(self):
        super().__init__()
        self.size, self.exchanged = 2, []

    def sum_now(self, arrays):
        mx.eval(arrays)
        self.exchanged += [values.shape for values in arrays]
        return [2 * values for values in arrays]

    def concatenate(self, values):
        return mx.concatenate([values, values])

    def average(self, _):
        raise AssertionError("the exchange is within the step's graph")

    mean = average


def twice(batch):
    """A batch with each of its windows once more."""
    names = ("inputs", "targets", "weights")
    return replace(batch, **{name: np.concatenate([getattr(batch, name)] * 2) for name in names})


def four_steps(ids, ranks, **changes):
    """Numbers, targets' losses and weights of four steps."""
    trainer = Trainer(TINY, tiny_training(**changes), ids, None)
    take = Step(trainer.model, trainer.optimizer, 0.5, trainer.absent, ranks)
    results = [take(twice(trainer.batch(n)), 1e-3, stop_requested=n == 2) for n in range(4)]
    numbers = [[float(r.loss), float(r.norm), float(r.stop_requests)] for r in results]
    losses = [np.array(r.nll) for r in results]
    return np.array(numbers), np.array(losses), flat(trainer.model.parameters())


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.slow
def test_a_gpus_step_among_ranks_is_a_step_without_an_exchange_in_it(monkeypatch, ids, optimiser):
    for module in (ops, optimizer, step):
        monkeypatch.setattr(module, "on_gpu", lambda: True)
    monkeypatch.setattr(runtime_ranks, "PIECE", 5000)
    ranks = Twins()
    one, two = (four_steps(ids, r, optimizer=optimiser) for r in (ALONE, ranks))
    assert np.allclose(one[0], two[0], rtol=2e-5) and one[0][2, 2] == 1
    assert np.allclose(one[1], two[1], atol=2e-5)
    for name, weights in one[2].items():
        # A tenth of a step's rate: a gradient that is next to nothing may round to another one.
        assert float(mx.abs(weights - two[2][name]).max()) < 1e-4, name
    numbers = sum(values.size for values in one[2].values())
    *pieces, loss_and_stop = ranks.exchanged[: len(ranks.exchanged) // 4]
    assert sum(n for (n,) in pieces) == numbers and loss_and_stop == (2,)
    assert 2 < len(pieces) < len(one[2])


def test_what_is_exchanged_together_has_one_dtype(monkeypatch):
    monkeypatch.setattr(runtime_ranks, "PIECE", 100)
    arrays = {
        "a": mx.ones(20),
        "b": mx.ones((3, 3)),
        "c": mx.ones(2, mx.bfloat16),
        "d": mx.ones(40),
    }
    arrays |= {"e": mx.ones(1)}
    assert runtime_ranks.grouped(arrays) == [["a", "b"], ["c"], ["d"], ["e"]]
    averaged = Twins().average_now({"x": arrays})["x"]
    assert {name: (v.shape, v.dtype) for name, v in averaged.items()} == {
        name: (v.shape, v.dtype) for name, v in arrays.items()
    }
    assert all(mx.array_equal(averaged[name], values) for name, values in arrays.items())


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_a_gpus_bfloat16_step_is_the_same_compiled(monkeypatch, ids, optimiser):
    """With float32 masters captured as state; compiled, roundings to bfloat16 are fewer."""
    for module in (ops, optimizer, step):
        monkeypatch.setattr(module, "on_gpu", lambda: True)
    changes = {"dtype": "bfloat16", "optimizer": optimiser}
    compiled, _, weights = four_steps(ids, ALONE, **changes)
    mx.disable_compile()
    try:
        plain, _, other = four_steps(ids, ALONE, **changes)
    finally:
        mx.enable_compile()
    np.testing.assert_allclose(compiled[:, :2], plain[:, :2], rtol=0.02)
    assert compiled[-1, 0] < compiled[0, 0]
    for name, values in weights.items():
        assert values.dtype == mx.bfloat16
        np.testing.assert_allclose(
            np.array(values.astype(mx.float32)), np.array(other[name].astype(mx.float32)),
            rtol=0.02, atol=4e-3, err_msg=name,
        )  # fmt: skip
