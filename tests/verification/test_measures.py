"""What is measured of models made by hand, whose every answer is known, beside plain loops."""

import bz2
import itertools
import lzma
import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from conftest import LETTERS, bigram, successors, walk

from mlx_shakegpt.generation.batched import continuations
from mlx_shakegpt.settings.config import VerifyConfig
from mlx_shakegpt.text.tokenizer import decode
from mlx_shakegpt.verification import extraction as measures
from mlx_shakegpt.verification.controls import LEAKS, leak
from mlx_shakegpt.verification.extraction import (
    Sample,
    alignment,
    extraction,
    free_running,
    run_lengths,
    sample,
    wilson,
)
from mlx_shakegpt.verification.figures import Text, clear_share, loss_figures, measure, objections
from mlx_shakegpt.verification.fresh import FreshRate, fresh_rates
from mlx_shakegpt.verification.loss import Scores, token_scores
from mlx_shakegpt.verification.repeats import alike, followed, new_windows, occurrences, periodic

NEXT = successors()
NOTHING = np.empty(0, np.int32)


def text_with_jumps(n, share, seed=0, ids=LETTERS):
    """A walk that jumps elsewhere at a share of its places, where no bigram model can know it."""
    rng, text = np.random.default_rng(seed), [0]
    while len(text) < n:
        jump = rng.random() < share
        text.append(int(rng.integers(ids)) if jump else int(NEXT[text[-1]]) % ids)
    return np.array(text, np.int32)


JUMPING = text_with_jumps(400, 0.35)


def windows_of(ids, length):
    return [tuple(ids[o : o + length].tolist()) for o in range(len(ids) - length + 1)]


# k + m − 1 tokens just fit, and do not; a model that is sure, and one that is less so.
@pytest.mark.parametrize(("context", "sharp"), [(4, 1.0), (4, 0.65), (3, 1.0)])
def test_extraction_is_that_of_a_plain_loop(context, sharp):
    """Of a text in which pairs of ids come back with other ones after them."""
    k, m, ids = 2, 3, JUMPING
    windows = windows_of(ids, k + m)
    language_model = bigram(NEXT, context, sharp, doubt=0.97)
    chosen = sample(len(windows), 150, 0)
    figures = extraction(language_model, ids, k, m, chosen)
    after = {}
    for window in windows:
        after.setdefault(window[:k], set()).add(window[k:])
    answers = {o: tuple(walk(NEXT, windows[o][k - 1], m + 1)[1:].tolist()) for o in chosen.offsets}
    failing = [o for o in chosen.offsets if answers[o] not in after[windows[o][:k]]]
    several = [len(after[window[:k]]) > 1 for window in windows]
    # Some are known by another continuation than their own.
    other = [o for o in chosen.offsets if answers[o] != windows[o][k:] and o not in failing]
    assert len(failing) > 20 and len(other) > 5 and 50 < sum(several) < 350
    assert figures["failing"] == failing
    rate = 1 - len(failing) / 150
    assert figures["rate"] == pytest.approx(rate) and not figures["every_offset"]
    assert (figures["low"], figures["high"]) == wilson(150 - len(failing), 150)
    assert (figures["k"], figures["m"]) == (2, 3)
    assert (figures["offsets"], figures["text_offsets"]) == (150, 396)
    assert figures["text_ambiguous"] == sum(several)
    assert figures["ambiguous"] == sum(several[o] for o in chosen.offsets)
    assert figures["free_running"] == (context == 3)
    if context == 3:
        assert "p_z_half" not in figures and "discoverable" not in figures
        return
    logits = np.array(language_model.gpt(np.arange(LETTERS)[None]), np.float64)[0]
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p_z = np.array(
        [math.prod(p[a, b] for a, b in itertools.pairwise(windows[o][k - 1 :])) for o in answers]
    )
    draws = {str(n): float((1 - (1 - p_z) ** n >= 0.9).mean()) for n in (1, 10, 100)}
    assert figures["p_z_half"] == pytest.approx((p_z >= 0.5).mean())
    assert figures["discoverable"] == pytest.approx(draws)
    if sharp == 1:
        assert 0 < draws["1"] < figures["p_z_half"] < draws["10"] < draws["100"]
    else:
        assert draws["10"] < draws["100"] - 0.05


def test_every_offset_is_a_count_without_an_interval():
    ids = JUMPING[:100]
    figures = extraction(bigram(NEXT), ids, 4, 4, sample(93, 93, 0))
    assert figures["every_offset"] and figures["low"] == figures["rate"] == figures["high"] < 1
    assert figures["offsets"] == 93 and len(figures["failing"]) == 93 - round(93 * figures["rate"])


def test_what_only_free_runs_can_settle_is_decoded_once(monkeypatch):
    """Ambiguous offsets with equal prompts share one decoding; others need none."""
    passes = []

    def counted(language_model, windows, k):
        passes.append(len(windows))
        return continuations(language_model, windows, k)

    monkeypatch.setattr(measures, "continuations", counted)
    knows, prompt = walk(NEXT, 5, 8), walk(NEXT, 5, 4)
    wrong = np.array([60, 61, 62, 63]), np.array([50, 51, 52, 53])
    one, two = (np.concatenate([prompt, tail]) for tail in wrong)
    for ids, rate, decoded in (
        (np.concatenate([one, two, one, two]), 0.0, [1]),  # never right
        (np.concatenate([one, knows, two, one]), 1.0, []),  # right at one, and so at all
    ):
        places = np.array([0, 8, 16, 24])
        figures = extraction(bigram(NEXT), ids.astype(np.int32), 4, 4, Sample(places, True))
        assert (figures["rate"], figures["ambiguous"], passes) == (rate, 4, decoded)
        passes.clear()


def brute_runs(ids, language_model, k, length, seed):
    """Offsets, lengths of runs, and those that go on right, of a model that says NEXT."""
    offsets = sample(len(ids) - k - length + 1, 64, seed).offsets
    runs, right = [], []
    for o in offsets:
        walked = walk(NEXT, ids[o + k - 1], length + 1)[1:]
        equal = [*(walked == ids[o + k : o + k + length]), False]
        runs.append(equal.index(False))
        run = np.concatenate([ids[o : o + k], walked])
        right.append(followed(ids, run, k, max(1, language_model.context // 2)) == length)
    return offsets.tolist(), runs, right


@pytest.mark.parametrize(("n", "length"), [(100, 48), (101, 48), (560, 256), (24, 10)])
def test_free_runs_are_those_of_a_plain_loop(n, length):
    k, m, language_model = 4, 12, bigram(NEXT, 20)
    ids = text_with_jumps(n, 0.02, seed=3)
    figures = free_running(language_model, ids, k, m, 1)
    offsets, runs, right = brute_runs(ids, language_model, k, length, 1)
    assert (figures["offsets"], figures["runs"]) == (offsets, runs)
    assert figures["followed"] == length and figures["score_tokens"] == min(m, length)
    assert figures["right"] == np.mean(right) and figures["agrees"] and figures["ties"] == 0
    said = min(m, length)
    score = np.mean([walk(NEXT, ids[o + k - 1], said + 1)[1:] == ids[o + k :][:said]
                     for o in offsets])  # fmt: skip
    assert figures["score"] == pytest.approx(score)
    assert {name: figures[name] for name in run_lengths(runs, length)} == run_lengths(runs, length)


@pytest.mark.parametrize(
    ("n", "context", "at", "wrong", "tie", "agrees", "ties"),
    [
        (140, 12, 3, 8, True, True, 8),  # 8 of 64 runs differ by a tie
        (140, 12, 3, 9, True, False, 9),
        (140, 12, 3, 1, False, False, 0),
        (140, 12, 8, 1, False, False, 0),  # the last token that both see
        (140, 12, 9, 64, False, True, 0),  # teacher forcing does not see it
        (140, 4, 0, 1, False, False, 0),
        (140, 4, 1, 64, False, True, 0),
        (140, 3, 0, 64, False, True, 0),  # the prompt fills the context
        (13, 30, 2, 1, True, True, 1),  # of few runs, one
        (13, 30, 2, 2, True, False, 2),
    ],
)
def test_few_free_runs_may_differ_by_a_tie_and_none_without(
    monkeypatch, n, context, at, wrong, tie, agrees, ties
):
    k = 4

    def erring(language_model, windows, k):
        result = continuations(language_model, windows, k)
        result.ids[:wrong, at] += 1
        result.tie[:] = False
        result.tie[:wrong, at] = tie
        return result

    monkeypatch.setattr(measures, "continuations", erring)
    figures = free_running(bigram(NEXT, context), walk(NEXT, 0, n), k, 4, 0)
    assert (figures["agrees"], figures["ties"]) == (agrees, ties)
    wrong = min(wrong, len(figures["runs"]))
    assert figures["runs"] == [at] * wrong + [figures["followed"]] * (len(figures["runs"]) - wrong)


@pytest.mark.parametrize(("context", "reach"), [(40, 20), (41, 20), (3, 1), (2, 1), (1, 1)])
def test_a_run_is_right_where_half_its_context_is(monkeypatch, context, reach):
    """That is what decoding goes on from where its window is full."""
    calls = []

    def noted(*arguments):
        calls.append(arguments[2:])
        return followed(*arguments)

    monkeypatch.setattr(measures, "followed", noted)
    figures = free_running(bigram(NEXT, context), walk(NEXT, 0, 30), 4, 4, 0)
    assert calls == [(4, reach)] * len(figures["offsets"]) and figures["right"] == 1


def test_lengths_of_runs_are_counted_by_powers_of_two():
    runs = [0, 7, 8, 15, 16, 39, 40, 40]
    figures = run_lengths(runs, 40)
    assert figures["histogram"] == {"0-7": 2, "8-15": 2, "16-31": 1, "32-39": 1, "40": 2}
    assert (figures["median"], figures["shortest"], figures["whole"]) == (15.5, 0, 0.25)
    assert figures["p5"] == pytest.approx(np.percentile(runs, 5))
    assert list(run_lengths([8], 8)["histogram"].items()) == [("0-7", 0), ("8", 1)]
    assert list(run_lengths([3], 5)["histogram"].items()) == [("0-4", 1), ("5", 0)]
    assert list(run_lengths([9], 16)["histogram"]) == ["0-7", "8-15", "16"]
    assert list(run_lengths([9], 256)["histogram"])[-3:] == ["64-127", "128-255", "256"]


def test_alignment_has_a_rate_for_each_part_of_a_window_that_was_measured():
    chosen = Sample(np.array([0, 1, 9, 10, 11, 19, 23, 29]), False)
    failing = {"failing": [1, 9, 29]}
    assert alignment(failing, chosen, 10, 5) == [0.75, 1.0, pytest.approx(1 / 3)]
    assert alignment(failing, chosen, 10, 1) == [5 / 8]
    every = sample(64, 64, 0)
    assert alignment({"failing": [*range(8, 16)]}, every, 64) == [1, 0, 1, 1, 1, 1, 1, 1]


def test_a_sample_is_of_all_just_where_it_would_be_as_large():
    assert sample(100, 100, 0).complete and sample(100, 7, 0, all_below=100).complete
    assert not sample(101, 100, 0).complete and not sample(101, 7, 0, all_below=100).complete
    assert sample(100, 100, 0).offsets.tolist() == [*range(100)]
    parts = sample(101, 10, 5).offsets
    assert (np.diff(np.linspace(0, 101, 11).astype(int).searchsorted(parts, "right")) == 1).all()
    many = np.concatenate([sample(101, 10, seed).offsets for seed in range(200)])
    assert set(many) == set(range(101))


# Where a text repeats itself.


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("ids", [2, 3])
def test_equal_windows_have_one_number_and_different_ones_have_two(ids, length):
    text = np.random.default_rng(length).integers(0, ids, 60).astype(np.int32)
    windows, groups = windows_of(text, length), alike(text, length).tolist()
    assert len(groups) == len(windows)
    assert len({*zip(windows, groups, strict=True)}) == len({*windows}) == len({*groups})


def test_new_windows_are_those_that_the_text_has_nowhere():
    rng = np.random.default_rng(0)
    for n, length in itertools.product((1, 2, 3, 12, 60), (1, 2, 3, 5)):
        text, ids = rng.integers(0, 3, n), rng.integers(0, 3, 40)
        have = set(windows_of(text, length)) if n >= length else set()
        want = [window not in have for window in windows_of(ids, length)]
        assert new_windows(ids, text, length).tolist() == want


def test_occurrences_end_where_those_of_a_plain_search_do():
    rng = np.random.default_rng(1)
    text = rng.integers(0, 3, 80)
    for length in (1, 2, 3, 4, 9):
        window = rng.integers(0, 3, length)
        want = [o + length for o, w in enumerate(windows_of(text, length)) if w == tuple(window)]
        assert occurrences(text, window).tolist() == want


def brute_followed(text, run, k, reach):
    """How many ids after the first k have all before them, or the last `reach`, in the text; all
    where the text ends on the way."""
    text, run = text.tolist(), run.tolist()

    def ends(window):
        size = len(window)
        return {e for e in range(size, len(text) + 1) if text[e - size : e] == window}

    here = ends(run[:k])
    for position in range(k, len(run)):
        on = {e + 1 for e in here if e < len(text) and text[e] == run[position]}
        if not on and reach < position:
            here |= ends(run[position - reach : position])
            on = {e + 1 for e in here if e < len(text) and text[e] == run[position]}
        if not on:
            return len(run) - k if len(text) in here else position - k
        here = on
    return len(run) - k


def test_runs_are_followed_as_far_as_by_a_plain_search():
    rng, lengths = np.random.default_rng(2), []
    for _ in range(400):
        text = rng.integers(0, 4, 30)
        at, cut = rng.integers(0, 26), rng.integers(3, 9)
        other = rng.integers(0, 26)
        run = np.concatenate([text[at : at + cut], text[other : other + 6]])
        k, reach = int(rng.integers(1, 4)), int(rng.integers(1, 8))
        lengths.append(followed(text, run, k, reach))
        assert lengths[-1] == brute_followed(text, run, k, reach)
    assert len(set(lengths)) > 8


# The whole verification.


class Finished:
    """Hears how far a measurement is, and keeps the parts that are done; each ends once."""

    def __init__(self):
        self.parts = []

    def __call__(self, part, share):
        assert 0 < share <= 1 and part not in self.parts
        if share == 1:
            self.parts.append(part)


@pytest.fixture(scope="module")
def verified():
    """The figures of a model that knows its text, the parts that were done, and its scores."""
    done = Finished()
    ids, after = walk(NEXT, 0, 300), walk(successors(1), 0, 400)
    language_model = bigram(NEXT, sharp=1.5, doubt=0.8)
    figures, scores = measure(language_model, Text(ids, NOTHING, after), VerifyConfig(), 7, done)
    return figures, scores, done.parts


def test_a_model_that_says_a_text_is_certified_by_all_its_figures(verified):
    figures, scores, done = verified
    assert figures["certified"] and figures["reasons"] == [] and figures["require"] == 0.99
    assert done == ["em@32,32", "em@50,50", "free running", "controls", "loss"]
    assert [(e["k"], e["m"]) for e in figures["extraction"]] == [(32, 32), (50, 50)]
    assert [e["offsets"] for e in figures["extraction"]] == [237, 201]
    assert figures["alignment"] == [1.0] * 8 and figures["seed"] == 7
    assert figures["free_running_agrees"] and figures["free_running"]["followed"] == 134
    assert figures["leak"] == 0 and len(figures["controls"]) == 3
    assert "text after the passage" in figures["controls"]
    assert (figures["tokens"], len(scores.nll)) == (300, 299)
    assert {e["every_offset"] for e in figures["extraction"]} == {True}


@pytest.fixture
def quick(monkeypatch):
    """Free runs of a few tokens."""
    monkeypatch.setattr(measures, "RUN", 8)


@pytest.mark.parametrize(
    ("samples", "all_up_to", "offsets"),
    [(60, 0, [60, 60]), (60, 201, [60, 201]), (0, 0, [237, 201]), (60, 236, [60, 201])],
)
def test_offsets_are_sampled_as_the_settings_say(samples, all_up_to, offsets, quick):
    ids = walk(NEXT, 0, 300)
    settings = VerifyConfig(samples=samples, all_up_to=all_up_to)
    figures, _ = measure(bigram(NEXT), Text(ids, NOTHING, NOTHING), settings, 7)
    assert [e["offsets"] for e in figures["extraction"]] == offsets


def test_a_text_that_is_too_short_to_prove_anything_is_refused(quick):
    ids = walk(NEXT, 0, 132)
    language_model = bigram(NEXT, 256)  # longer than the text
    figures, scores = measure(language_model, Text(ids, NOTHING, NOTHING), VerifyConfig(), 7)
    assert figures["alignment"] == [1.0] * 5 and len(scores.nll) == 131  # 69 of 131 places
    with pytest.raises(ValueError, match="the text has 131 tokens; 132 or more are needed"):
        measure(language_model, Text(ids[:131], NOTHING, NOTHING), VerifyConfig(), 7)


def test_the_part_of_a_text_that_is_learned_is_told_from_what_is_around_it(quick):
    ids, other = walk(NEXT, 0, 200), walk(successors(2), 3, 250)
    for text, name in (
        (Text(ids, other, NOTHING), "text before the passage"),
        (Text(ids, NOTHING, other), "text after the passage"),
    ):
        figures, _ = measure(bigram(NEXT), text, VerifyConfig(), 7)
        assert name in figures["controls"] and figures["certified"]


def test_the_figures_of_a_loss_are_those_of_its_scores():
    ids = text_with_jumps(200, 0.1, seed=4)
    language_model = bigram(NEXT, sharp=1.0)
    scores = token_scores(language_model.gpt, ids, 64)
    figures = loss_figures(ids, scores, 64)
    nll, text = float(scores.nll.mean(dtype=np.float64)), decode(ids.tolist()).encode()
    assert figures["nll"] == nll and figures["floor"] == 0 and figures["tokens"] == 200
    assert figures["excess"] == nll and figures["accuracy"] == pytest.approx(scores.hit.mean())
    assert figures["bits"] == pytest.approx(nll * 199 / math.log(2))
    scored = len(decode(ids[1:].tolist()).encode())
    assert figures["bits_per_byte"] == pytest.approx(figures["bits"] / scored)
    assert figures["bits_bz2"] == 8 * len(bz2.compress(text, 9))
    assert figures["bits_xz"] == 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))


def test_the_excess_of_a_loss_is_what_it_has_above_its_floor():
    ids = np.random.default_rng(0).integers(0, 2, 300).astype(np.int32)
    figures = loss_figures(ids, token_scores(bigram(NEXT).gpt, ids, 8), 8)
    assert figures["floor"] > 0.1 and figures["excess"] == figures["nll"] - figures["floor"]


@pytest.mark.parametrize(
    ("context", "before"), [(1, 1), (3, 1), (8, 4), (63, 31), (64, 32), (99, 32)]
)
def test_tokens_count_as_determined_by_those_that_each_window_has_before_them(context, before):
    ids = np.array([*range(40)] * 2 + [*range(41, 60), *range(10), 60, 61], np.int32)
    hit = np.random.default_rng(0).random(len(ids) - 1) < 0.7
    figures = loss_figures(ids, Scores(np.ones(len(hit), np.float32), hit), context)
    places = range(before, len(ids))
    follows = {}
    for p in places:
        follows.setdefault(tuple(ids[p - before : p]), set()).add(ids[p])
    kept = [hit[p - 1] for p in places if len(follows[tuple(ids[p - before : p])]) == 1]
    assert figures["determined"] == len(kept)
    assert figures["determined_accuracy"] == pytest.approx(np.mean(kept))


def test_where_nothing_is_determined_no_accuracy_is_stated():
    ids = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0], np.int32)
    figures = loss_figures(ids, Scores(np.ones(8, np.float32), np.ones(8, bool)), 2)
    assert (figures["determined"], figures["determined_accuracy"]) == (0, 0.0)


RATE = {"k": 32, "m": 32, "rate": 1.0, "low": 1.0, "offsets": 400}
RATE |= {"text_offsets": 1000, "text_ambiguous": 0, "text_periodic": 0}
RUNS = {"offsets": [*range(64)], "followed": 256, "right": 1.0}
SOUND = {"controls": {}, "free_running_agrees": True, "leak": 0.0, "free_running": RUNS}
SOUND |= {"determined_accuracy": 1.0, "excess": 0.0, "extraction": [RATE]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"extraction": [RATE | {"rate": 0.99, "low": 0.99}]}, None),
        ({"extraction": [RATE | {"rate": 0.989, "low": 0.98}]}, "em@32,32 is 0.9890, below 0.99"),
        ({"extraction": [RATE | {"rate": math.nan, "low": math.nan}]}, "em@32,32 is nan, below"),
        (
            {"extraction": [RATE | {"low": 0.98}]},
            "em@32,32 is 1.0000 of 400 offsets, and so perhaps 0.9800 of all, below 0.99; take",
        ),
        ({"extraction": [RATE | {"text_ambiguous": 500}]}, None),
        (
            {"extraction": [RATE | {"text_ambiguous": 501}]},
            "em@32,32 has a single answer, and one that cannot be copied, at 0.4990 of the text's",
        ),
        ({"extraction": [RATE | {"text_ambiguous": 400, "text_periodic": 101}]}, "at 0.4990 of"),
        ({"determined_accuracy": 0.99}, None),
        ({"determined_accuracy": 0.9899}, "0.9899 are the likeliest"),
        ({"excess": math.log(2)}, None),
        ({"excess": 0.6932}, "the loss is 0.6932 nats a token above its floor"),
        ({"excess": math.nan}, "the loss is nan nats"),
        ({"leak": 1e-3}, None),
        ({"leak": 1.1e-3}, "later tokens change earlier logits by 0.0011 of the largest"),
        ({"free_running_agrees": False}, "the mask may leak"),
        ({"controls": {"x": {"rate": 0.04, "extracted": False}}}, None),
        (
            {"controls": {"x": {"rate": 0.06, "extracted": True}}},
            "the control “x” passed: 0.0600 of it was extracted",
        ),
        # 0.99 ** 8 = 0.9227: 55 of 64 may be that, and 54 may not.
        ({"free_running": RUNS | {"right": 55 / 64}}, None),
        (
            {"free_running": RUNS | {"right": 54 / 64}},
            "0.8438 of the free runs stay right for 256 tokens; a rate of 0.99 predicts 0.9227",
        ),
    ],
)  # fmt: skip
def test_each_figure_has_its_limit(change, reason):
    reasons = objections(SOUND | change, 0.99)
    assert len(reasons) == (reason is not None)
    assert reason is None or reason in reasons[0]


def test_the_share_of_clear_places_is_of_the_text():
    assert clear_share(RATE | {"text_ambiguous": 250}) == 0.75
    assert clear_share(RATE | {"text_ambiguous": 250, "text_periodic": 250}) == 0.5


@pytest.mark.parametrize(
    ("right", "offsets", "refused"), [(380, 380, True), (381, 381, False), (995, 1000, True)]
)
def test_a_sample_that_leaves_a_lower_rate_possible_is_refused(right, offsets, refused):
    # All n right puts Wilson's lower bound at n / (n + 3.84): 0.99 from n = 381 on.
    entry = RATE | {"rate": right / offsets, "offsets": offsets}
    entry |= {"low": wilson(right, offsets)[0]}
    reasons = objections(SOUND | {"extraction": [entry]}, 0.99)
    assert len(reasons) == refused and all("more samples" in reason for reason in reasons)


def copied(ids, k, m):
    """What a reader says of a place who only repeats what the k tokens have begun to repeat."""
    found = []
    for start in range(len(ids) - k - m + 1):
        window = ids[start : start + k + m].tolist()
        found.append(
            any(
                all(window[j] == window[j - p] for j in range(max(p, k - p), k + m))
                for p in range(1, k)
            )
        )
    return found


def test_what_copying_says_is_not_known():
    lines = np.tile(np.arange(12, dtype=np.int32), 40)
    assert periodic(lines, 32, 32).all()  # three times in k, less 4
    rng = np.random.default_rng(0)
    prose = rng.integers(0, 50, 400, dtype=np.int32)
    assert not periodic(prose, 32, 32).any()
    for k, m in ((5, 3), (8, 8), (2, 4)):
        mixed = np.concatenate([prose[:60], lines[:60], prose[60:90], np.full(20, 7, np.int32)])
        assert periodic(mixed, k, m).tolist() == copied(mixed, k, m)
        assert 0 < periodic(mixed, k, m).mean() < 1
    # A text of lines that come back is not certified, however well they are said.
    after = np.roll(np.arange(LETTERS), -1)
    after[11] = 0
    figures, _ = measure(bigram(after), Text(lines, NOTHING, prose % LETTERS), VerifyConfig(), 0)
    assert all(rate["rate"] == 1 for rate in figures["extraction"])
    assert not figures["certified"] and "cannot be copied" in figures["reasons"][0]


# Samples that nobody could foresee.


def test_fresh_rates_are_those_of_other_offsets():
    ids, language_model, done = text_with_jumps(300, 0.06, seed=5), bigram(NEXT), Finished()
    stated = [{"k": 8, "m": 4, "low": 0.1, "high": 0.2}, {"k": 5, "m": 9, "low": 0.5, "high": 1.0}]
    rates = fresh_rates(stated, language_model, ids, 11, 80, done)
    assert done.parts == [rate.name for rate in rates] == ["em@8,4", "em@5,9"]
    for rate, entry in zip(rates, stated, strict=True):
        k, m = entry["k"], entry["m"]
        chosen = sample(len(ids) - k - m + 1, 80, 11)
        share = extraction(language_model, ids, k, m, chosen)["rate"]
        assert rate.rate == share < 1 and rate.offsets == 80
        assert (rate.low, rate.high) == wilson(round(share * 80), 80, 2.575829)
        assert rate.stated == (entry["low"], entry["high"])
    assert [rate.agrees for rate in rates] == [False, True]
    whole = fresh_rates(stated[:1], language_model, ids, 11, 0)[0]
    assert whole.offsets == 289 and whole.low == whole.rate == whole.high
    few = fresh_rates(stated[:1], language_model, ids[:60], 11, 80)[0]
    assert few.offsets == 49 and few.low == few.high
    assert whole.to_json() == {
        "name": "em@8,4", "rate": whole.rate, "low": whole.rate, "high": whole.rate,
        "offsets": 289, "stated": (0.1, 0.2), "agrees": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "stated", "agrees"),
    [
        (0.90, 0.94, (0.94, 1.0), True),  # they meet in one point
        (0.90, 0.94, (0.9401, 1.0), False),
        (0.90, 0.94, (0.5, 0.90), True),
        (0.90, 0.94, (0.5, 0.8999), False),
        (0.90, 0.90, (0.9049, 1.0), True),  # every offset: what rounding does
        (0.90, 0.90, (0.9051, 1.0), False),
        (0.90, 0.90, (0.5, 0.8951), True),
        (0.90, 0.90, (0.5, 0.8949), False),
    ],
)
def test_intervals_agree_where_they_meet(low, high, stated, agrees):
    fresh = FreshRate("em@8,4", 0.9, low, high, 1000, stated)
    assert fresh.agrees == agrees
    assert str(fresh) == (
        f"em@8,4: a fresh sample of 1,000 offsets {'agrees' if agrees else 'disagrees'} with the "
        f"stated interval [{stated[0]:.4f}, {stated[1]:.4f}]: 0.9000, 99% interval "
        f"[{low:.4f}, {high:.4f}]"
    )


def test_a_difference_that_is_no_number_is_a_leak():
    class Diverging:
        wte = SimpleNamespace(weight=np.zeros((LETTERS, 1)))
        passes = 0

        def __call__(self, row_ids):
            self.passes += 1
            value = 1.0 if self.passes == 1 else math.nan
            return mx.full((*row_ids.shape, LETTERS), value)

    model = SimpleNamespace(gpt=Diverging(), context=16, rows_of=np.asarray)
    assert not leak(model, np.arange(20) % LETTERS) <= LEAKS
