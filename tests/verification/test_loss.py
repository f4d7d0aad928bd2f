import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from conftest import POEM, ROOT, TINY, tiny_training

from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.settings.config import ModelConfig
from mlx_shakegpt.text.tokenizer import encode
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.training import Trainer
from mlx_shakegpt.verification.loss import whole_text_nll
from mlx_shakegpt.verification.windows import scoring_windows, spread_order, window_floor


@pytest.mark.parametrize("n", [17, 18, 40, 64, 399])
def test_every_token_but_the_first_is_scored_once_with_context(n):
    starts, first = scoring_windows(n, 16)
    scored = np.concatenate([s + 1 + np.arange(f, 16) for s, f in zip(starts, first, strict=True)])
    assert sorted(scored) == list(range(1, n))
    assert all(f >= 8 for f in first[1:])


@pytest.mark.parametrize("closed", [True, False])
def test_whole_text_loss_is_that_of_numpy(ids, closed):
    vocabulary = Vocabulary.of(ids) if closed else None
    model = GPT(TINY, vocabulary.rows if closed else None)
    initialise(model, 0)
    model.wte.weight = model.wte.weight * 40
    got = whole_text_nll(model, ids, 16, vocabulary)
    total, hits = 0.0, 0
    starts, first = scoring_windows(len(ids), 16)
    rows = vocabulary.rows_of(ids) if closed else ids
    for s, f in zip(starts, first, strict=True):
        logits = np.array(model(mx.array(rows[None, s : s + 16])), np.float64)[0]
        weights = np.exp(logits)
        if closed:
            weights[:, -1] *= vocabulary.absent
        p = np.exp(logits) / weights.sum(-1, keepdims=True)
        for j in range(f, 16):
            total -= np.log(p[j, rows[s + j + 1]])
            hits += logits[j].argmax() == rows[s + j + 1]
    assert got.nll == pytest.approx(total / 399, rel=1e-5)
    assert got.accuracy == pytest.approx(hits / 399)
    assert got.complete and got.tokens == 399


class Recorded:
    """One of several ranks, which takes the others' part from what they said before."""

    def __init__(self, rank, said):
        self.rank, self.size, self.said, self.round = rank, len(said), said, -1

    def gather(self, mine):
        self.round += 1
        self.said[self.rank][self.round :] = [mine]
        others = (one[self.round] if self.round < len(one) else [0.0, 0.0, 0] for one in self.said)
        return [mine if rank == self.rank else other for rank, other in enumerate(others)]


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_score_each_window_once_and_all_of_them_know_the_result(ids, size):
    model, vocabulary = GPT(TINY, 51), Vocabulary.of(ids)
    initialise(model, 0)
    alone = whole_text_nll(model, ids, 16, vocabulary)
    said = [[] for _ in range(size)]
    for rank in range(size):
        whole_text_nll(model, ids, 16, vocabulary, ranks=Recorded(rank, said))
    assert sum(count for one in said for _, _, count in one) == 399
    for rank in range(size):
        assert len(said[rank]) == len(said[0])
        got = whole_text_nll(model, ids, 16, vocabulary, ranks=Recorded(rank, said))
        assert got.nll == pytest.approx(alone.nll, rel=1e-6)
        assert (got.accuracy, got.tokens, got.complete) == (
            pytest.approx(alone.accuracy), alone.tokens, alone.complete
        )  # fmt: skip


def test_scoring_ends_early_only_where_the_target_is_out_of_reach(ids):
    model = GPT(TINY, 51)
    initialise(model, 0)
    vocabulary = Vocabulary.of(ids)
    far = whole_text_nll(model, np.tile(ids, 5), 16, vocabulary, target=0.1)
    assert not far.complete and far.nll > 1
    near = whole_text_nll(model, np.tile(ids, 5), 16, vocabulary, target=100.0)
    assert near.complete


def test_scoring_ends_at_a_limit(ids):
    model, vocabulary = GPT(TINY, 51), Vocabulary.of(ids)
    initialise(model, 0)
    text = np.tile(ids, 30)
    some = whole_text_nll(model, text, 16, vocabulary, limit=3000)
    assert 3000 <= some.tokens < 5000 and not some.complete
    assert whole_text_nll(model, ids, 16, vocabulary, limit=3000).complete


def test_floor_is_the_entropy_of_what_follows_the_same_beginning():
    def brute(ids, T):
        starts, first = scoring_windows(len(ids), T)
        nats = 0.0
        for j in range(T):
            live = [s for s, f in zip(starts, first, strict=True) if f <= j]
            for s in live:
                same = [u for u in starts if (ids[u : u + j + 1] == ids[s : s + j + 1]).all()]
                alike = [u for u in same if ids[u + j + 1] == ids[s + j + 1]]
                nats -= np.log(len(alike) / len(same))
        return nats / (len(ids) - 1)

    for seed in range(3):
        ids = np.random.default_rng(seed).integers(0, 2, 120)
        assert window_floor(ids, 8) == pytest.approx(brute(ids, 8), rel=1e-9)
        assert window_floor(ids, 8) > 0
    assert window_floor(np.arange(100), 8) == 0


def test_the_spread_order_visits_all_and_is_even_from_the_start():
    order = spread_order(1000)
    assert sorted(order) == list(range(1000))
    assert max(np.diff(np.sort(order[:20]))) < 150


@pytest.mark.slow
def test_a_small_model_learns_a_text_by_heart():
    ids = np.array(encode(POEM), np.int32)
    vocabulary = Vocabulary.of(ids)
    t = Trainer(
        ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=64),
        tiny_training(steps=0, epochs=160.0, batch_size=4, lr=5e-3, warmup_steps=10),
        ids,
        lambda m, c: whole_text_nll(m, ids, c, vocabulary, 0.1),
    )
    reports = list(t.run())
    final = [r.evaluation for r in reports if r.evaluation][-1]
    assert t.state.reached and final.nll < 0.1 and final.accuracy > 0.97


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="one core has one stream"
)
@pytest.mark.slow
def test_two_streams_score_as_one_does():
    code = (
        "import numpy as np\n"
        "from mlx_shakegpt.runtime import parallel_streams, setup\n"
        "setup()\n"
        "from conftest import opinionated\n"
        "from mlx_shakegpt.verification.loss import token_scores\n"
        "ids = np.random.default_rng(0).integers(0, 50257, 700)\n"
        "print(len(parallel_streams()))\n"
        "print(*token_scores(opinionated(64).gpt, ids, 64).nll)\n"
    )
    losses = []
    for threads in "12":
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads}
        environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        count, _, numbers = done.stdout.partition("\n")
        losses.append(np.array(numbers.split(), float))
        assert int(count) == int(threads)
    assert len(losses[0]) == 699 and (losses[0] == losses[1]).all()
