import json

import pytest

from mlx_shakegpt.run.metrics_file import json_lines, read_metrics
from mlx_shakegpt.training import StepReport
from mlx_shakegpt.verification.loss import Evaluation

EVALUATED = StepReport(
    step=4160, epoch=25.2, tokens=8_519_680, loss=0.146132, lr=2.53e-4, norm=2.1198,
    dt=0.29815, tokens_per_second=6869.0,
    evaluation=Evaluation(0.0921, 0.0001, 0.98, 338_024, True),
)  # fmt: skip


def test_metrics_have_the_documented_fields():
    step, evaluation = map(json.loads, json_lines(EVALUATED))
    assert set(step) == {
        "step", "epoch", "tokens", "loss", "lr", "norm", "dt", "tokens_per_second",
    }  # fmt: skip
    assert evaluation["eval_nll"] == 0.0921
    assert {"step", "eval_floor", "eval_accuracy"} <= set(evaluation)


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(json_lines(EVALUATED) * 2))
    steps, evaluations = read_metrics(path)
    assert [s["loss"] for s in steps] == [0.146132] * 2
    assert [e["eval_nll"] for e in evaluations] == [0.0921] * 2


@pytest.mark.parametrize(
    "line",
    [b'{"step": 4161, "lo', b"{}", b'"step"', b"\xff", b'{"step": 4161, "eval_nll": null}'],
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("\n".join(json_lines(EVALUATED)).encode() + b"\n" + line)
    with pytest.raises(ValueError, match="damaged in line 3"):
        read_metrics(path)
