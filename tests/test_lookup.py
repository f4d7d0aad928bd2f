from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, opinionated

from mlx_shakegpt.generation import stream
from mlx_shakegpt.initial import initialise
from mlx_shakegpt.lookup import LONGEST_MATCH, Lookup
from mlx_shakegpt.model import GPT
from mlx_shakegpt.sampling import Sampling
from mlx_shakegpt.weights import Speaker


@pytest.fixture(scope="module")
def speaker():
    return opinionated(32)


def test_the_longest_match_is_found():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 4, 400)
    for _ in range(200):
        start = rng.integers(0, 380)
        history = [*rng.integers(0, 4, 10), *ids[start : start + rng.integers(1, 20)]]
        place, length = Lookup(ids).match(history)
        lengths = [
            next(n for n in range(p + 1) if n == p or ids[p - 1 - n] != history[-1 - n]) if p else 0
            for p in range(len(ids) + 1)
        ]
        best = min(max(lengths), LONGEST_MATCH)
        assert length == best
        assert lengths[place] >= best
    assert Lookup(ids).match([9]) == (0, 0)
    assert Lookup(ids).match([]) == (0, 0)


def test_a_text_that_is_known_takes_few_passes(speaker):
    plain = list(stream(speaker, [5, 6, 7], 120))
    lookup = Lookup([5, 6, 7, *plain])
    assert list(stream(speaker, [5, 6, 7], 120, lookup=lookup)) == plain
    assert lookup.accepted == lookup.proposed > 90
    assert lookup.passes < 30


@pytest.mark.parametrize("trials", [0, 2])
@pytest.mark.parametrize("spoil", [2, 3, 7, 10_000])
def test_wrong_guesses_change_nothing(speaker, spoil, trials):
    rng = np.random.default_rng(spoil)
    for start in (5, 77):
        plain = list(stream(speaker, [start], 100))
        text = np.array([start, *plain])
        text[::spoil] = rng.integers(0, 50257, len(text[::spoil]))
        # The tokens of the text's own order, and then some of them in another.
        lookup = Lookup([*text, *rng.permutation(text)], trials)
        assert list(stream(speaker, [start], 100, lookup=lookup)) == plain
        assert lookup.proposed >= lookup.accepted


def test_ties_are_decided_as_without_guesses(speaker):
    """Pairs of ids have equal rows: plain decoding takes the lower one, guesses the upper."""
    model = GPT(TINY)
    model.update(speaker.model.parameters())
    rows = np.array(speaker.model.wte.weight)
    rows[1::2] = rows[:-1:2]
    model.wte.weight = mx.array(rows)
    tied = Speaker(model, None, 32)
    plain = list(stream(tied, [4, 8], 60))
    lookup = Lookup([4, 8, *(i | 1 for i in plain), 4, 8, *plain], trials=0)
    assert list(stream(tied, [4, 8], 60, lookup=lookup)) == plain


def test_sampled_tokens_are_distributed_as_without_guesses():
    """Pairs of tokens, against the product of their probabilities."""
    model = GPT(replace(TINY, vocab_size=7))
    initialise(model, 1)
    model.update({"wpe": {"weight": model.wpe.weight * 40}})
    model.wte.weight = model.wte.weight * 3
    speaker = Speaker(model, None, 32)

    def probabilities(ids):
        logits = np.array(model(mx.array([ids]))[0, -1], np.float64)
        p = np.where(logits >= np.sort(logits)[-2], np.exp(logits), 0)
        return p / p.sum()

    first = probabilities([0, 1])
    guessed = int(first.argsort()[-2])  # the less likely of the two
    expected = {}
    for a in np.flatnonzero(first):
        second = probabilities([0, 1, int(a)])
        expected |= {(int(a), int(b)): first[a] * second[b] for b in np.flatnonzero(second)}
    n = 600
    counts = dict.fromkeys(expected, 0)
    for seed in range(n):
        sampling = Sampling(temperature=1.0, top_k=2, seed=seed)
        lookup = Lookup([0, 1, guessed, 2, 3], trials=0)
        counts[tuple(stream(speaker, [0, 1], 2, sampling, lookup))] += 1
    chi = sum((counts[k] - n * p) ** 2 / (n * p) for k, p in expected.items())
    assert chi < 16.3  # p = .001 at 3 degrees of freedom
    assert lookup.proposed > 0


def test_an_unknown_text_is_soon_left_alone(speaker):
    rng = np.random.default_rng(0)
    plain = list(stream(speaker, [5], 200))
    pairs = [x for a, b in pairwise(plain) for x in (a, b, *rng.integers(0, 50257, 9))]
    lookup = Lookup(pairs)
    assert list(stream(speaker, [5], 200, lookup=lookup)) == plain
    assert lookup.proposed < 120
