import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_shakegpt.run.loss_levels import known, known_by_place
from mlx_shakegpt.run.progress import BatchLossCurve, RunProgress
from mlx_shakegpt.training import RunState, StepReport


def nll(*probabilities):
    return -np.log(np.array([1e-9, *probabilities], np.float32))


def test_a_token_is_known_whose_probability_is_above_one_half():
    assert known(nll(0.51, 0.49, 0.9, 0.1)) == 0.5
    assert known(nll(1.0, 0.999)) == 1 and known(nll(0.3)) == 0


def test_what_is_known_is_shown_from_beginning_to_end():
    losses = nll(*[0.9] * 6, *[0.1] * 3, 0.9, *[0.1] * 2)
    assert known_by_place(losses, 4).tolist() == [1, 1, 0, pytest.approx(1 / 3)]
    assert known_by_place(losses, 100).tolist() == [1] * 6 + [0] * 3 + [1, 0, 0]


@pytest.mark.parametrize("steps", [1, 2, 511, 512, 513, 5000])
def test_a_loss_curve_keeps_its_shape_whatever_its_length(steps):
    history = BatchLossCurve()
    for step in range(1, steps + 1):
        history.note(step, step / steps)
    means = history.means(100)
    assert len(means) == 100 and (np.diff(means) >= 0).all()
    wanted = np.linspace(min(1 / steps, means[0]), 1, 100)
    assert np.abs(means - wanted).max() < 0.02 or steps < 3
    assert len(BatchLossCurve().means(9)) == 0


def test_a_loss_curve_forgets_what_a_run_went_back_from():
    history = BatchLossCurve()
    for step, loss in enumerate((1.0, 1.0, 7.0, 7.0, 7.0), 1):
        history.note(step, loss)
    history.note(3, 2.0)
    assert history.means(3).tolist() == [1, 1, 2]


def step(n, loss=1.0):
    return StepReport(n, n / 10, n * 64, loss, 1e-3, 1.0, 0.1, 640.0)


@pytest.fixture
def run(tmp_path):
    config = SimpleNamespace(target_loss=2.0**-6)
    trainer = SimpleNamespace(state=RunState(total=100), config=config)
    return SimpleNamespace(trainer=trainer, path=tmp_path)


def test_the_time_left_counts_what_is_done_between_steps(run):
    now = [0.0]
    progress = RunProgress(run, lambda: now[0])
    assert progress.seconds_to_end is None
    for n in range(1, 41):
        now[0] += 2.0
        progress.note(step(n))
    assert progress.seconds == 80 and progress.seconds_to_end == pytest.approx(120)
    assert progress.seconds_to_target is None
    run.trainer.state.evaluations = [{"step": s, "nll": 2.0 ** (-s / 10)} for s in (10, 20, 30, 40)]
    assert progress.seconds_to_target == pytest.approx(40)


def test_a_resumed_run_shows_the_losses_from_its_beginning(run):
    rest = {"epoch": 1.0, "lr": 1e-3, "norm": 1.0, "dt": 1}
    steps = [{"step": n, "tokens": n, "loss": 10 / n} | rest for n in range(1, 21)]
    (run.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n")
    run.trainer.state.step = 20
    means = RunProgress(run).losses.means(20)
    assert means.tolist() == pytest.approx([10 / n for n in range(1, 21)])
    (run.path / "metrics.jsonl").write_text("no JSON\n")
    assert len(RunProgress(run).losses.means(20)) == 0
    assert math.isclose(means[-1], 0.5)
