"""What a model says while it learns: when, at what cost, and without a trace in what is learned."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import POEM, TINY, tiny_training

from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.run import samples
from mlx_shakegpt.run.samples import SHARE, TOKENS, Sampler, default_prompt
from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.tokenizer import decode, encode
from mlx_shakegpt.training import Trainer
from mlx_shakegpt.verification.loss import Evaluation


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("JULIET:\nO Romeo!\n\nROMEO:\nShall I hear more?", "ROMEO:"),
        (POEM, "From fairest creatures"),
        ("\n\nTwo households\nboth alike", "\n\nTwo households"),
        ("word", "word"),
        ("字" * 90, "字" * 24),
        ("\n \n", "ROMEO:"),
    ],
)
def test_a_sample_goes_on_from_romeo_or_the_texts_first_words(text, prompt):
    assert default_prompt(text) == prompt


class Clock:
    """A clock that only moves when it is told to, or with each token that `stream` says."""

    def __init__(self):
        self.now = self.a_token = 0.0

    def __call__(self):
        return self.now

    def stream(self, _model, _ids, n):
        for _ in range(n):
            self.now += self.a_token
            yield 262


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(samples, "stream", clock.stream)
    return clock


@pytest.fixture
def trainer():
    ids = np.array(encode(POEM), np.int32)
    trainer = Trainer(TINY, tiny_training(), ids, lambda *_: Evaluation(9, 0, 0, 1, True))
    trainer.state.step = 1
    trainer.corpus = Corpus(ids, "poem.txt", None, "0" * 64, Passage())
    return trainer


def report(step=1, epoch=1.0, settled=True):
    return SimpleNamespace(step=step, epoch=epoch, settled=settled)


def test_samples_take_two_percent_of_the_time_at_every_moment_and_nearly_all_of_that(
    trainer, clock
):
    sampler = Sampler(trainer.corpus, clock=clock)
    sampler.after(report(), trainer)  # compiles
    spent, taken, clock.a_token = 0.0, 0, 0.02
    for _ in range(3000):
        clock.now += 1
        before = clock.now
        taken += sampler.after(report(), trainer) is not None
        spent += clock.now - before
        assert spent <= SHARE * (clock.now - spent) + clock.a_token
    assert taken > 30 and spent > 0.9 * SHARE * clock.now


def test_a_sample_that_takes_too_long_is_broken_off_and_paid_for(trainer, clock):
    sampler = Sampler(trainer.corpus, clock=clock)
    assert sampler.after(report(), trainer) is None  # compiles
    clock.now, clock.a_token = 20, 1.0  # 0.4 seconds to spend, of which a first token takes all
    assert sampler.after(report(), trainer) is None
    assert clock.now == 21
    clock.now += 25
    assert sampler.after(report(), trainer) is None
    assert clock.now == 46  # not tried, as the one before has not been paid for
    clock.now, clock.a_token = 120, 0.1
    assert sampler.after(report(), trainer) is None
    assert 121.3 < clock.now < 121.6  # broken off when 2 % were spent
    clock.now = 240  # not tried: it would take 4 seconds
    assert sampler.after(report(), trainer) is None and clock.now == 240
    clock.now = 400
    assert sampler.after(report(), trainer) and clock.now == pytest.approx(404)


def test_what_is_compiled_once_is_not_a_samples_time(trainer, clock):
    sampler = Sampler(trainer.corpus, clock=clock)
    clock.now, clock.a_token = 1, 15.0
    assert sampler.after(report(), trainer) is None
    assert clock.now == 31  # two tokens
    clock.now, clock.a_token = 42, 0.0  # of which 12 were training
    assert sampler.after(report(), trainer)
    silent = Sampler(trainer.corpus, every=0.0, clock=clock)
    clock.a_token = 1.0
    assert silent.after(report(), trainer) is None and clock.now == 42


def test_samples_are_as_far_apart_as_asked_for(trainer, clock):
    def taken(**options):
        sampler, steps = Sampler(trainer.corpus, clock=clock, **options), []
        for step in range(1, 11):
            clock.now += 100
            if sampler.after(report(step, step / 2), trainer):
                steps.append(step)
        return steps

    assert taken(every=1.0) == [2, 4, 6, 8, 10]
    assert taken(every=0.0) == []
    assert taken() == list(range(1, 11))
    assert taken(seconds=250) == [3, 6, 9]


def test_the_last_step_is_sampled_and_an_unsettled_one_never(trainer, clock, monkeypatch):
    sampler, asked = Sampler(trainer.corpus, every=50.0, clock=clock), []
    monkeypatch.setattr(trainer, "settle_soon", lambda: asked.append(True))
    clock.now = 100
    assert sampler.after(report(trainer.state.total - 1, 1.0, False), trainer) is None
    assert not asked
    assert sampler.after(report(trainer.state.total, 1.0, False), trainer) is None
    assert asked  # as a GPU's reports come unsettled
    assert sampler.after(report(trainer.state.total - 1, 1.0), trainer) is None
    assert sampler.after(report(trainer.state.total, 1.0), trainer)


def test_a_sample_is_what_greedy_decoding_says(trainer):
    clock = Clock()
    sampler = Sampler(trainer.corpus, "Making a famine", clock=clock)
    clock.now = 100
    sample = sampler.after(report(), trainer)
    model = LanguageModel(trainer.model, trainer.vocabulary, trainer.context(0))
    said = decode(list(stream(model, encode("Making a famine"), TOKENS)))
    assert sample.text == "Making a famine" + said and sample.step == 1


def test_what_a_sample_knows_word_for_word_is_marked(trainer, monkeypatch):
    monkeypatch.setattr(samples, "stream", lambda *_: iter(encode(" creatures we desire, we eat")))
    clock = Clock()
    sampler = Sampler(trainer.corpus, "From fairest", clock=clock)
    clock.now = 100
    sample = sampler.after(report(), trainer)
    assert [(span.words, span.line) for span in sample.spans] == [(5, 1)]
    assert sample.longest == 5 and sample.share == pytest.approx(28 / 34)


def losses(run):
    """What a run logged of its steps and evaluations, but for times and memory."""
    entries = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    changing = ("dt", "tokens_per_second", "peak_bytes")
    return [{k: v for k, v in entry.items() if k not in changing} for entry in entries]


def test_samples_change_no_bit_of_what_is_learned(shakegpt, tiny_preset, poem, home, monkeypatch):
    """Also where a run is interrupted, and goes on; a sample after each step, or none at all."""
    monkeypatch.setattr(samples, "SHARE", 1e6)
    train = ["train", "--preset", tiny_preset, "--data", poem, "--corpus-tokens", 0]
    train += ["--checkpoint-every", 20, "--steps", 30]
    spoken = {}
    for name, every in (("silent", 0), ("speaking", 0.001)):
        run = ["--run", name, "--sample-every", every]
        first = shakegpt(*train, *run)
        assert first.code == 1, first.err
        second = shakegpt(*train[:-1], 60, *run, "--resume")
        spoken[name] = (first.err + second.err).count("\nsays")
    assert spoken["silent"] == 0 and spoken["speaking"] == 60
    silent, speaking = (home / "weights" / name for name in spoken)
    assert losses(silent) == losses(speaking) and len(losses(silent)) > 60
    saved = [path.relative_to(silent) for path in sorted(silent.rglob("*.safetensors"))]
    assert len(saved) > 4
    for path in saved:
        assert (silent / path).read_bytes() == (speaking / path).read_bytes(), path
