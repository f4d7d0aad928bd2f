"""Whether a text counts as known by heart while a training goes on."""

from math import comb

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_shakegpt.verification.known import AT_ONCE, OFFSETS, extracted, judged
from mlx_shakegpt.verification.loss import Scores, window_scores
from mlx_shakegpt.verification.repeats import occurrences


def of(language_model, ids, seed=0):
    return extracted(
        language_model.gpt, ids, language_model.context, language_model.vocabulary, seed
    )


def test_a_text_that_is_known_counts_as_known_and_noise_on_the_weights_shows(known):
    assert of(known.language_model, known.ids) == (1.0, True)
    before = known.language_model.gpt.parameters()
    try:
        noise = iter(mx.random.split(mx.random.key(0), 1000))
        known.language_model.gpt.update(
            tree_map(lambda w: w + 0.03 * mx.random.normal(w.shape, key=next(noise)), before)
        )
        share, whole = of(known.language_model, known.ids)
    finally:
        known.language_model.gpt.update(before)
    assert share < 0.5 and not whole


def test_another_text_is_not_known(known):
    share, whole = of(known.language_model, known.after)
    assert share < 0.1 and not whole


def test_one_wrong_token_in_a_short_text_is_found(known):
    wrong = known.ids.copy()
    wrong[100] = wrong[0]
    for seed in range(5):
        share, whole = of(known.language_model, wrong, seed)
        assert share < 0.9 and not whole


def test_a_text_that_is_not_known_from_its_start_is_not_known(known, monkeypatch):
    """As it is said from a prompt, with nothing before it."""
    model, ids = known.language_model, known.ids

    def scores(gpt, windows, last, vocabulary):
        result = window_scores(gpt, windows, last, vocabulary)
        if len(windows) == 1:  # the text's first window
            result.hit[0, 20 - (windows.shape[1] - last)] = False
        return result

    monkeypatch.setattr("mlx_shakegpt.verification.known.window_scores", scores)
    share, whole = of(model, ids)
    assert share > 0.98 and not whole


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.slow
def test_places_where_a_text_goes_on_in_several_ways_are_left_out(monkeypatch, which):
    """Else nobody could know a text with a refrain, which may be its beginning. The model is one
    that goes on as the text does at the first, or the last, place with the same tokens so far."""
    rng = np.random.default_rng(0)
    refrain = rng.integers(0, 40, 120)
    verses = [rng.integers(0, 40, 150) for _ in range(4)]
    ids = np.concatenate([part for verse in verses for part in (refrain, verse)]).astype(np.int32)

    def scores(model, windows, last, vocabulary):
        def next_id(window, n):
            ends = occurrences(ids, window[:n])
            return ids[ends[ends < len(ids)][which]]

        places = range(windows.shape[1] - last, windows.shape[1])
        hit = [[next_id(window, n) == window[n] for n in places] for window in windows]
        return Scores(np.zeros(np.shape(hit), np.float32), np.array(hit))

    monkeypatch.setattr("mlx_shakegpt.verification.known.window_scores", scores)
    every = ids[np.arange(len(ids) - 99)[:, None] + np.arange(100)]
    assert scores(None, every, 50, None).hit.all(1).mean() < 0.9
    assert extracted(None, ids, 128, None, 0) == (1.0, True)


@pytest.mark.parametrize("tokens", [20, 60, 88])
def test_texts_shorter_than_what_verify_asks_for_are_halved(known, tokens):
    assert of(known.language_model, known.ids[:tokens])[1]


def chance(rate):
    """The exact chance that a long text of which this share of offsets fails counts as known, and
    the mean number of offsets that are measured."""
    counts, measured, known, mean = {0: 1.0}, 0, 0.0, 0.0
    while counts:
        verdicts = {wrong: judged(wrong, measured, OFFSETS) for wrong in counts}
        over = {wrong: p for wrong, p in counts.items() if verdicts[wrong] is not None}
        known += sum(p for wrong, p in over.items() if verdicts[wrong])
        mean += measured * sum(over.values())
        more = [comb(AT_ONCE, n) * rate**n * (1 - rate) ** (AT_ONCE - n) for n in range(AT_ONCE)]
        going = {wrong: p for wrong, p in counts.items() if wrong not in over}
        counts = {}
        for wrong, p in going.items():
            for n, q in enumerate(more):
                counts[wrong + n] = counts.get(wrong + n, 0.0) + p * q
        measured += AT_ONCE
    return known, mean


def test_a_long_text_is_judged_by_a_sequential_test():
    rates = (0.0005, 0.001, 0.002, 0.004, 0.01)
    known, means = zip(*map(chance, rates), strict=True)
    assert known[0] > 0.99 and known[1] > 0.9 and known[3] < 0.05 and known[4] < 1e-3
    assert sorted(known, reverse=True) == list(known)
    assert max(means) < 0.6 * OFFSETS and means[-1] < 400


def test_in_a_short_text_every_offset_has_to_be_right():
    assert judged(0, 450, 500) is None and judged(0, 500, 500)
    assert judged(1, 50, 500) is False
    assert judged(0, 0, 0) is False
    assert judged(1, 1000, 1000) and judged(2, 950, 1000) is False


@pytest.mark.parametrize("most", [0, 1, 300, 1200, OFFSETS])
def test_a_sample_ends_at_the_latest_when_all_is_measured(most):
    assert all(judged(wrong, most, most) is not None for wrong in range(min(most, 40) + 1))
