"""The curves of runs as a picture."""

import json

import pytest
from PIL import Image

from mlx_shakegpt.run.curves import loss_curve, smooth


@pytest.fixture
def runs(tmp_path):
    """Two runs' metrics, by name."""
    made = {}
    for name in ("one", "two"):
        made[name] = tmp_path / f"{name}.jsonl"
        at = [{"step": s, "tokens": s * 512, "loss": 10 / s} for s in range(1, 30)]
        lines = [entry | {"epoch": 1.0, "lr": 1e-3, "norm": 1.0, "dt": 0.5} for entry in at]
        evaluation = {"eval_nll": 0.3, "eval_floor": 0.01, "eval_accuracy": 0.9}
        lines.insert(20, {"step": 20, "eval_complete": True} | evaluation)
        lines.insert(10, {"step": 10, "eval_complete": False} | evaluation | {"eval_nll": 0.7})
        made[name].write_text("\n".join(map(json.dumps, lines)))
    return made


@pytest.mark.parametrize("across", ["tokens", "time"])
@pytest.mark.parametrize("dark", [False, True])
def test_runs_are_drawn_on_light_and_on_dark(runs, tmp_path, across, dark):
    loss_curve(runs, tmp_path / "loss.png", 0.1, across, dark)
    picture = Image.open(tmp_path / "loss.png").convert("L")
    assert min(picture.size) > 700
    assert (picture.getpixel((2, 2)) < 64) == dark
    # Lines and letters are there, and stand out.
    low, high = picture.getextrema()
    assert high - low > 150


def test_a_picture_shows_the_figures_of_its_run(runs, tmp_path, drawn):
    loss_curve({"one": runs["one"]}, tmp_path / "loss.png", 0.1, "time")
    loss, rate, norm = drawn[0]
    hours = [step * 0.5 / 3600 for step in range(1, 30)]
    lines = {line.get_label(): line for line in loss.lines}
    batches, smoothed = loss.lines[0], lines["training batches, smoothed"]
    assert list(batches.get_xdata()) == list(smoothed.get_xdata()) == pytest.approx(hours)
    assert list(batches.get_ydata()) == [10 / step for step in range(1, 30)]
    assert list(smoothed.get_ydata()) == smooth([10 / step for step in range(1, 30)])
    for label, at, nll in (("estimated", [9, 19], [0.7, 0.3]), ("all of it", [19], [0.3])):
        points = lines[f"whole text, {label}"]
        assert list(points.get_xdata()) == [hours[place] for place in at]
        assert list(points.get_ydata()) == nll
    assert list(lines["floor"].get_ydata()) == [0.01, 0.01]
    (target,) = loss.texts
    assert 0.1 in loss.lines[-1].get_ydata() and target.get_text() == "target 0.1"
    assert set(rate.lines[0].get_ydata()) == {1e-3} and set(norm.lines[0].get_ydata()) == {1.0}


def test_damaged_metrics_are_named_and_nothing_is_drawn(runs, tmp_path):
    runs["one"].write_text('{"step": 1\n')
    with pytest.raises(ValueError, match=r"one\.jsonl is damaged in line 1"):
        loss_curve(runs, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_smoothing_has_no_bias_at_its_start():
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3, 3, 3])


@pytest.mark.parametrize("value", [26.422269821166992, 10.638726, 1e-30])
def test_values_that_are_the_same_stay_so_to_the_bit(value):
    assert smooth([value] * 4) == [value] * 4


def test_a_run_of_one_step_has_a_picture(runs, tmp_path):
    """Whose norm and its logarithm's exponential are next to each other."""
    step = {"step": 1, "epoch": 0.4, "tokens": 128, "loss": 10.8, "lr": 6e-4, "dt": 0.03}
    runs["one"].write_text(json.dumps(step | {"norm": 26.422269821166992}))
    loss_curve({"one": runs["one"]}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").exists()


def test_a_smooth_line_through_a_falling_loss_does_not_lag():
    falling = [10 * 0.97**step for step in range(100)]
    assert smooth(falling)[30:70] == pytest.approx(falling[30:70], rel=0.02)
    assert smooth([]) == [] and smooth([0.0])[0] < 1e-300
