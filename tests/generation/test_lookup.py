from dataclasses import replace
from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, opinionated

from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.generation.lookup import LONGEST_MATCH, Lookup
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.settings.sampling import Sampling


@pytest.fixture(scope="module")
def language_model():
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


def test_guesses_double_while_all_are_right_and_begin_anew_after_an_error():
    lookup = Lookup(range(200))
    for length in (16, 32, 64, 64):
        proposed = lookup.propose([3, 4], 100)
        assert proposed == list(range(5, 5 + length))
        lookup.settle(length, length)
    assert (lookup.proposed, lookup.accepted, lookup.passes) == (176, 176, 4)
    assert lookup.propose([3, 4], 7) == list(range(5, 12))
    lookup.settle(7, 6)
    assert (lookup.proposed, lookup.accepted, lookup.passes) == (183, 182, 5)
    assert len(lookup.propose([3, 4], 100)) == 16
    lookup.settle(0, 0)
    assert (lookup.proposed, lookup.accepted, lookup.passes) == (183, 182, 6)


def test_nothing_is_guessed_after_a_short_match_or_at_the_end_of_the_text():
    lookup = Lookup(range(20))
    assert lookup.propose([9, 4], 100) == [] == lookup.propose([18, 19], 100)
    assert lookup.propose([3, 4], 100) == list(range(5, 20))[:16]
    assert lookup.propose([17, 18], 100) == [19]
    assert lookup.match(list(range(20))) == (20, 20)
    assert Lookup([1, 2, 3, 1, 2, 4]).match([9, 1, 2]) == (2, 2)  # the first place of two
    long = list(range(60))
    assert Lookup(long).match(long) == (60, LONGEST_MATCH) == (60, 32)


def test_guesses_are_trusted_after_two_right_ones_or_a_long_match():
    lookup = Lookup(range(60))
    assert not lookup.trusted
    lookup.watch([1, 2], 3)
    assert not lookup.trusted
    lookup.watch([1, 2], 3)
    assert lookup.trusted and lookup.passes == 2
    lookup.watch([1, 2], 4)  # the text goes on with 3
    assert not lookup.trusted
    lookup.watch([59, 2], 3)  # matches one token only
    assert not lookup.trusted
    lookup.watch(range(10, 17), 17)
    assert not lookup.trusted
    lookup.watch(range(10, 18), 19)
    assert not lookup.trusted
    lookup.watch(range(10, 18), 18)  # eight tokens agree
    assert lookup.trusted
    lookup.watch(range(50, 60), 0)  # the text has ended
    assert not lookup.trusted
    assert Lookup(range(9), trials=0).trusted
    once = Lookup(range(9), trials=1)
    once.watch([1, 2], 3)
    assert once.trusted


def test_trust_goes_with_a_pass_that_accepts_nothing():
    lookup = Lookup(range(60))
    lookup.settle(16, 1)
    assert lookup.trusted
    lookup.settle(0, 0)
    assert lookup.trusted
    lookup.settle(16, 0)
    assert not lookup.trusted
    lookup.watch([1, 2], 3)
    lookup.settle(16, 0)
    lookup.watch([1, 2], 3)
    assert not lookup.trusted  # the count began anew
    lookup.watch([1, 2], 3)
    assert lookup.trusted
    assert lookup.propose([9, 4], 9) == [] and not lookup.trusted
    lookup.watch([1, 2], 3)
    assert not lookup.trusted
    lookup.watch([1, 2], 3)
    assert lookup.trusted


def test_a_text_that_is_known_takes_few_passes(language_model):
    plain = list(stream(language_model, [5, 6, 7], 120))
    lookup = Lookup([5, 6, 7, *plain])
    assert list(stream(language_model, [5, 6, 7], 120, lookup=lookup)) == plain
    assert lookup.accepted == lookup.proposed > 90
    assert lookup.passes < 30


@pytest.mark.parametrize("trials", [0, 2])
@pytest.mark.parametrize("spoil", [2, 3, 7, 10_000])
def test_wrong_guesses_change_nothing(language_model, spoil, trials):
    rng = np.random.default_rng(spoil)
    for start in (5, 77):
        plain = list(stream(language_model, [start], 100))
        text = np.array([start, *plain])
        text[::spoil] = rng.integers(0, 50257, len(text[::spoil]))
        # The tokens of the text's own order, and then some of them in another.
        lookup = Lookup([*text, *rng.permutation(text)], trials)
        assert list(stream(language_model, [start], 100, lookup=lookup)) == plain
        assert lookup.proposed >= lookup.accepted
        # Once its first guesses fail, a lookup that is on trial may guess no more.
        assert lookup.proposed > lookup.accepted or trials or spoil == 10_000
        assert lookup.proposed > 0 or trials


def test_ties_are_decided_as_without_guesses(language_model):
    """Pairs of ids have equal rows: plain decoding takes the lower one, guesses the upper."""
    model = GPT(TINY)
    model.update(language_model.gpt.parameters())
    rows = np.array(language_model.gpt.wte.weight)
    rows[1::2] = rows[:-1:2]
    model.wte.weight = mx.array(rows)
    tied = LanguageModel(model, None, 32)
    plain = list(stream(tied, [4, 8], 60))
    lookup = Lookup([4, 8, *(i | 1 for i in plain), 4, 8, *plain], trials=0)
    assert list(stream(tied, [4, 8], 60, lookup=lookup)) == plain
    assert lookup.proposed > lookup.accepted


@pytest.mark.slow
def test_sampled_tokens_are_distributed_as_without_guesses():
    """Pairs of tokens, against the product of their probabilities."""
    model = GPT(replace(TINY, vocab_size=7))
    initialise(model, 1)
    model.update({"wpe": {"weight": model.wpe.weight * 40}})
    model.wte.weight = model.wte.weight * 3
    language_model = LanguageModel(model, None, 32)

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
        counts[tuple(stream(language_model, [0, 1], 2, sampling, lookup))] += 1
    chi = sum((counts[k] - n * p) ** 2 / (n * p) for k, p in expected.items())
    assert chi < 16.3  # p = .001 at 3 degrees of freedom
    assert lookup.proposed > 0


def test_an_unknown_text_is_soon_left_alone(language_model):
    rng = np.random.default_rng(0)
    plain = list(stream(language_model, [5], 200))
    pairs = [x for a, b in pairwise(plain) for x in (a, b, *rng.integers(0, 50257, 9))]
    lookup = Lookup(pairs)
    assert list(stream(language_model, [5], 200, lookup=lookup)) == plain
    assert lookup.proposed < 120
