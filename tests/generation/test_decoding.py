import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, opinionated

from mlx_shakegpt.generation.choosing import Chooser
from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.settings.sampling import Sampling
from mlx_shakegpt.text.tokenizer import END_OF_TEXT
from mlx_shakegpt.text.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def language_model():
    return opinionated(16)


def plain(language_model, prompt, count):
    """Greedy decoding without a cache: the whole window in one pass for each token."""
    history, window = list(prompt), list(prompt)
    half = language_model.context // 2
    for _ in range(count):
        if len(window) > language_model.context:
            window = history[-half:]
        logits = language_model.expand(language_model.gpt(language_model.rows_of(window)[None]))
        history.append(int(logits[0, -1].argmax()))
        window.append(history[-1])
    return history[len(prompt) :]


@pytest.mark.parametrize("length", [1, 5, 16])
def test_greedy_stream_is_plain_decoding_also_past_the_context(language_model, length):
    prompt = np.random.default_rng(length).integers(0, 50000, length).tolist()
    got = list(stream(language_model, prompt, 60))
    assert got == plain(language_model, prompt, 60)
    assert len(set(got)) > 5


def test_a_prompt_longer_than_the_context_goes_on_from_its_last_half(language_model):
    prompt = np.random.default_rng(0).integers(0, 50000, 50).tolist()
    assert list(stream(language_model, prompt, 5)) == plain(language_model, prompt[-8:], 5)


def test_stream_is_that_of_mlx_lm_within_the_context(language_model):
    from mlx_lm.generate import generate_step

    prompt = [464, 1573, 318]
    theirs = generate_step(mx.array(prompt), language_model.gpt, max_tokens=13)
    assert list(stream(language_model, prompt, 13)) == [int(token) for token, _ in theirs]


def test_closed_vocabulary_speaks_as_its_expansion():
    vocabulary = Vocabulary.of(np.arange(100, 200))
    model = GPT(TINY, vocabulary.rows)
    initialise(model, 0)
    model.update({"wpe": {"weight": model.wpe.weight * 20}})
    closed = LanguageModel(model, vocabulary, 16)
    full = GPT(TINY)
    full.update(model.parameters())
    full.update({"wte": {"weight": mx.array(np.array(model.wte.weight)[vocabulary.table])}})
    expanded = LanguageModel(full, None, 16)
    assert list(stream(closed, [120, 5], 40)) == list(stream(expanded, [120, 5], 40))
    sampling = Sampling(temperature=1.0, top_k=2000, top_p=0.9, seed=3)
    assert list(stream(closed, [120], 40, sampling)) == list(stream(expanded, [120], 40, sampling))


def test_sampling_follows_its_seed_and_its_limits(language_model):
    hot = Sampling(temperature=1.5, seed=1)
    assert list(stream(language_model, [5], 30, hot)) == list(stream(language_model, [5], 30, hot))
    other = Sampling(temperature=1.5, seed=2)
    assert list(stream(language_model, [5], 30, hot)) != list(
        stream(language_model, [5], 30, other)
    )
    greedy = list(stream(language_model, [5], 30))
    for limit in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert list(stream(language_model, [5], 30, Sampling(temperature=1.0, **limit))) == greedy


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_p": 0.7}, {1, 3}),  # 0.4 alone is less than that
        ({"top_p": 0.75}, {1, 3, 0}),
        ({"min_p": 0.3}, {1, 3, 0}),  # of the likeliest's 0.4
        ({"min_p": 0.3, "top_k": 1}, {1}),
    ],
)
def test_limits_leave_the_likeliest_whatever_the_temperature(limits, left):
    probabilities = np.array([0.15, 0.4, 0.1, 0.32, 0.03])
    model = LanguageModel(GPT(replace(TINY, vocab_size=5)), None, 16)
    for temperature in (0.5, 2.0):
        chooser = Chooser(model, Sampling(temperature=temperature, **limits))
        logits = mx.array(np.tile(np.log(probabilities), (4000, 1)), mx.float32) + 3
        drawn = np.bincount(np.array(chooser.ids(logits)), minlength=5) / 4000
        assert set(np.flatnonzero(drawn).tolist()) == left
        wanted = np.where(np.isin(np.arange(5), list(left)), probabilities ** (1 / temperature), 0)
        assert drawn == pytest.approx(wanted / wanted.sum(), abs=0.05)


def test_streams_that_take_turns_draw_as_each_alone(language_model):
    hot = [Sampling(temperature=1.5, seed=seed) for seed in (1, 2)]
    alone = [list(stream(language_model, [5], 20, sampling)) for sampling in hot]
    mx.random.seed(7)
    state = np.array(mx.random.state[0])
    turns = list(zip(*(stream(language_model, [5], 20, sampling) for sampling in hot), strict=True))
    assert [list(ids) for ids in zip(*turns, strict=True)] == alone
    assert (np.array(mx.random.state[0]) == state).all()  # the caller's own numbers go on as before


def test_the_lowest_temperature_is_greedy_and_a_lower_one_refused(language_model):
    cold = [Sampling(temperature=1e-6, top_k=top_k) for top_k in (0, 9)]
    greedy = list(stream(language_model, [5], 30))
    assert [list(stream(language_model, [5], 30, sampling)) for sampling in cold] == [
        greedy,
        greedy,
    ]
    hottest = Sampling(temperature=1e6, top_k=2)
    best = np.array(language_model.gpt(mx.array([[5]]))[0, -1]).argsort()[-2:]
    drawn = [
        next(stream(language_model, [5], 1, replace(hottest, seed=seed))) for seed in range(40)
    ]
    assert set(drawn) == set(best.tolist())
    for temperature in (1e-39, 1e-7, 1e7, -1.0):
        with pytest.raises(ValueError, match="it must be 0, or between 1e-6 and 1e6"):
            Sampling(temperature=temperature)


@pytest.mark.slow
def test_sampled_frequencies_are_the_softmax_at_that_temperature(language_model):
    logits = np.array(language_model.gpt(mx.array([[5]]))[0, -1], np.float64)
    top = np.argsort(logits)[-3:]
    p = np.exp(logits[top] / 2)
    p /= p.sum()
    counts = dict.fromkeys(top.tolist(), 0)
    for seed in range(400):
        sampling = Sampling(temperature=2.0, top_k=3, seed=seed)
        counts[next(stream(language_model, [5], 1, sampling))] += 1
    expected = 400 * p
    assert ((np.array(list(counts.values())) - expected) ** 2 / expected).sum() < 13.8  # p = .001


def test_end_of_text_ends_the_stream(language_model):
    assert list(stream(language_model, [5], 3))[:1] != [END_OF_TEXT]
    ending = GPT(TINY)
    ending.update(language_model.gpt.parameters())
    ending.ln_f.weight = mx.zeros(TINY.n_embd)
    ending.ln_f.bias = mx.ones(TINY.n_embd)
    ending.wte.weight = mx.array((np.arange(50257) == END_OF_TEXT)[:, None] * np.ones((1, 32)))
    ending.wte.weight = ending.wte.weight.astype(mx.float32)
    assert list(stream(LanguageModel(ending, None, 16), [5], 9)) == [END_OF_TEXT]


def test_an_empty_prompt_is_refused(language_model):
    with pytest.raises(ValueError, match="prompt is empty"):
        next(stream(language_model, [], 3))


@pytest.mark.slow
def test_speaking_does_not_wait_for_transformers_to_import():
    code = (
        "import sys; from mlx_shakegpt.generation.mlx_lm_modules import mlx_lm_module as get;"
        "get('models.cache');"
        "get('sample_utils'); assert 'transformers' not in sys.modules; import mlx_lm;"
        "assert mlx_lm.load"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
