"""When a run is evaluated, by what, and when it keeps a checkpoint."""

from contextlib import closing
from types import SimpleNamespace

import pytest
from conftest import TINY

from mlx_shakegpt import runtime
from mlx_shakegpt.run import evaluated_trainer, open_run, session
from mlx_shakegpt.runtime.ranks import ALONE
from mlx_shakegpt.settings.config import Passage, TrainConfig
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.verification.loss import Evaluation

FAR, NEAR = 0.5, 0.05  # losses above the target and below it


@pytest.fixture
def evaluated(poem, monkeypatch):
    """Evaluates a trainer whose estimate, sample and whole text give what they are told; returns
    the result, with the limits of what was scored."""

    def evaluate(estimate, known, whole, context=16, stop="known"):
        limits = []

        def nll(*arguments):
            limits.append(arguments[6] if len(arguments) > 6 else None)
            value = whole if limits[-1] is None else estimate
            return Evaluation(value, 0.0, 1.0, 9, complete=limits[-1] is None)

        monkeypatch.setattr(evaluated_trainer, "whole_text_nll", nll)
        monkeypatch.setattr(evaluated_trainer, "extracted", lambda *_: (0.9, known))
        config = TrainConfig(batch_size=2, context=16, epochs=2.0, stop=stop, target_loss=0.1)
        corpus = Corpus.load(poem, Passage())
        trainer = evaluated_trainer.trainer_of(TINY, config, corpus, None, ALONE)
        return trainer.evaluate(trainer.model, context), limits

    return evaluate


ESTIMATED = evaluated_trainer.ESTIMATED


@pytest.mark.parametrize(
    ("estimate", "known", "whole", "nll", "counts", "limits"),
    [
        (FAR, True, NEAR, FAR, False, [ESTIMATED]),
        (NEAR, False, NEAR, NEAR, False, [ESTIMATED]),
        (NEAR, True, FAR, FAR, False, [ESTIMATED, None]),
        (NEAR, True, NEAR, NEAR, True, [ESTIMATED, None]),
    ],
)
def test_a_text_is_known_only_by_estimate_sample_and_whole_text(
    evaluated, estimate, known, whole, nll, counts, limits
):
    result, scored = evaluated(estimate, known, whole)
    assert (result.nll, result.known, scored) == (nll, counts, limits)
    assert result.extracted == (None if estimate == FAR else 0.9)


def test_windows_that_have_yet_to_grow_and_other_rules_take_no_sample(evaluated):
    result, scored = evaluated(NEAR, True, NEAR, context=8)
    assert not result.known and result.extracted is None and scored == [ESTIMATED]
    result, scored = evaluated(FAR, True, NEAR, stop="text")
    assert not result.known and result.nll == NEAR and scored == [None]


def opened(home, poem, **settings):
    chosen = {"preset": "quick", "data": str(poem), "context": 16, "batch_size": 2}
    return open_run(runtime.setup(), chosen | {"run": "r", "steps": 6} | settings, False)


@pytest.mark.parametrize("seconds", [0, 1000])
def test_without_a_number_of_steps_checkpoints_go_by_the_clock(home, poem, monkeypatch, seconds):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
    with closing(opened(home, poem)) as run:
        kept = run.path / "checkpoints"
        newest = [max(kept.glob("0*"), default=None) for _ in run.train()]
    names = [folder and int(folder.name) for folder in newest]
    assert names == ([1, 2, 3, 4, 5, 6] if seconds == 0 else [None] * 6)
    assert max(kept.iterdir()).name == f"{6:08}"


def test_the_best_known_text_so_far_is_kept(home, poem, monkeypatch):
    with closing(opened(home, poem)) as run:
        told = []
        for nll in (3.0, 2.0, 2.5, 2.0):
            run.trainer.state.evaluations.append({"nll": nll})
            report = SimpleNamespace(evaluation=SimpleNamespace(nll=nll))
            told.append(run._improved(report, saved_at=-1e9))
        assert told == [True, True, False, True]
        assert not run._improved(SimpleNamespace(evaluation=None), saved_at=-1e9)
        monkeypatch.setattr(session, "SECONDS_BETWEEN_BEST", 1e12)
        assert not run._improved(report, saved_at=0.0)
