import json

import pytest

from mlx_shakegpt.run import log_lines
from mlx_shakegpt.training import RunState, StepReport
from mlx_shakegpt.verification.loss import Evaluation

STEP = StepReport(
    step=4160, epoch=25.2, tokens=8_519_680, loss=0.146132, lr=2.53e-4, norm=2.1198,
    dt=0.29815, tokens_per_second=6869.0,
)  # fmt: skip
EVALUATED = StepReport(
    **vars(STEP) | {"evaluation": Evaluation(0.0921, 0.0001, 0.98, 338_024, True)}
)


def test_log_line_is_that_of_the_seed_project():
    want = "step  4160 | loss: 0.146132 | lr: 2.53e-04 | norm: 2.1198 | dt: 298.15ms"
    assert log_lines.log_line(STEP).startswith(want)


def test_metrics_have_the_documented_fields():
    step, evaluation = map(json.loads, log_lines.metrics(EVALUATED))
    assert set(step) == {
        "step", "epoch", "tokens", "loss", "lr", "norm", "dt", "tokens_per_second",
    }  # fmt: skip
    assert evaluation["eval_nll"] == 0.0921
    assert {"step", "eval_floor", "eval_accuracy"} <= set(evaluation)


def test_time_to_target_extends_the_fall_of_the_logarithm():
    falling = [{"step": s, "nll": 2.0 ** (-s / 10)} for s in (10, 20, 30, 40)]
    assert log_lines.steps_to_target(falling, 40, 2.0**-6) == pytest.approx(20)
    assert log_lines.steps_to_target(falling[:2], 20, 0.1) is None
    assert log_lines.steps_to_target(falling[::-1], 40, 0.1) is None


def test_status_names_loss_rate_speed_epoch_and_both_times():
    state = RunState(step=40, total=100)
    state.evaluations = [{"step": s, "nll": 2.0 ** (-s / 10)} for s in (10, 20, 30, 40)]
    step = StepReport(**vars(STEP) | {"step": 40, "dt": 1.0})
    line = log_lines.status(step, state, 2.0**-6, 1.0)
    times = ("target in 0:20", "end in 1:00")
    for part in ("loss 0.1461", "lr 2.5e-04", "6,869 tok/s", "epoch 25.2", *times):
        assert part in line


def test_a_step_in_which_the_machine_slept_does_not_spoil_the_pace():
    pace = log_lines.Pace()
    taken = [1.0, 1.1, 0.9, 1.0, 7200.0, 1.0, 1.1]
    paces = [pace.after(StepReport(**vars(STEP) | {"dt": dt})) for dt in taken]
    assert paces[0] == 1.0 and max(paces) < 1.1
    for _ in range(20):
        last = pace.after(StepReport(**vars(STEP) | {"dt": 4.0}))
    assert last == 4.0
