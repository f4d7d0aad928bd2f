"""When a run is evaluated, by what, and when it keeps a checkpoint."""

from contextlib import closing

import pytest
from conftest import TINY

from mlx_shakegpt import runtime
from mlx_shakegpt.run import evaluated_trainer, open_run, session
from mlx_shakegpt.runtime.ranks import ALONE
from mlx_shakegpt.settings.config import Passage, TrainConfig
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.training import trainer
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
        made = evaluated_trainer.trainer_of(TINY, config, corpus, None, ALONE)
        return made.evaluate(made.model, context), limits

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


def newest_of(run):
    """The step of a run's newest checkpoint."""
    return max((int(path.name) for path in (run.path / "checkpoints").glob("0*")), default=None)


@pytest.mark.parametrize("seconds", [0, 1000])
def test_without_a_number_of_steps_checkpoints_go_by_the_clock(home, poem, monkeypatch, seconds):
    monkeypatch.setattr(session, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
    with closing(opened(home, poem)) as run:
        newest = [newest_of(run) for _ in run.train()]
    assert newest == ([1, 2, 3, 4, 5, 6] if seconds == 0 else [None] * 6)
    assert newest_of(run) == 6


@pytest.mark.parametrize(("seconds", "kept"), [(0, [1, 2, 2, 4, 4, 4]), (1000, [None] * 6)])
def test_the_best_known_text_so_far_is_kept(home, poem, monkeypatch, seconds, kept):
    """At once, unless the checkpoint before it is quite fresh."""
    monkeypatch.setattr(session, "SECONDS_BETWEEN_BEST", seconds)
    monkeypatch.setattr(trainer, "EVALUATIONS_AT_LEAST_APART", 1)
    losses = iter([3.0, 2.0, 2.5, 2.0, 2.4, 2.6])
    with closing(opened(home, poem, eval_every=0.01)) as run:
        run.trainer.evaluate = lambda *_: Evaluation(next(losses), 0.0, 0.5, 9, complete=False)
        newest = [newest_of(run) for _ in run.train()]
    assert newest == kept
