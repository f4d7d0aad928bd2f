"""What a machine's owner can measure for others."""

import json
import re
import socket
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_shakegpt import runtime
from mlx_shakegpt.cli.shared_figures import tables
from mlx_shakegpt.runtime import stopwatch
from mlx_shakegpt.training import gradient_check, survey, suspects
from mlx_shakegpt.training.gradient_check import CHECKS, Check, checked


@pytest.mark.parametrize("name", CHECKS)
def test_a_cpus_gradients_are_those_of_float64(name):
    result = checked(CHECKS[name]("float32"), "float32", 0.0)
    assert result["passed"] and result["repeats"] == 2
    assert not result["differ"] and result["worst_error"] < 2e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["LayerNorm's bias", "a linear layer's bias", "the embedding"])
def test_sums_of_small_whole_numbers_are_exact_at_any_precision(name, dtype):
    check = CHECKS[name](dtype)
    assert check.exact and np.abs(check.expected[0]).max() > 10
    result = checked(check, dtype, 0.0)
    assert result["passed"] and result["worst_error"] == 0


def test_a_race_that_loses_a_row_now_and_then_is_noticed():
    sound, calls = CHECKS["LayerNorm's bias"]("float32"), []

    def racing():
        calls.append(1)
        (g,) = sound.compute()
        return [g + (mx.arange(g.size) == 5) * (len(calls) == 31)]

    result = checked(Check(racing, sound.expected, exact=True), "float32", 60.0)
    assert (result["repeats"], result["wrong"], result["differ"]) == (gradient_check.REPEATS, 1, 1)
    assert not result["passed"] and 0 < result["worst_error"] < 0.1


def test_a_wrong_or_infinite_gradient_is_noticed():
    """Even where it is the last of several."""

    def spoilt(gradients, factor):
        return [*gradients[:-1], factor * gradients[-1]]

    sound = CHECKS["attention"]("float32")
    for factor, error in ((1.001, 1e-3), (np.nan, None), (np.inf, None)):
        wrong = Check(lambda f=factor: spoilt(sound.compute(), f), sound.expected)
        result = checked(wrong, "float32", 0.0)
        assert result["wrong"] == 2 and result["worst_error"] == (
            error and pytest.approx(error, 0.05)
        )


def test_variants_are_timed_in_turn(monkeypatch):
    order = []
    clock = iter(range(1000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    work = {name: lambda name=name: order.append(name) for name in "ab"}
    assert stopwatch.compared(work, limit=8.0) == {"a": 1.0, "b": 1.0}
    assert order == list("ababab")  # the first of each is not counted


@pytest.fixture
def small(monkeypatch, tiny_preset):
    """A survey of seconds: tiny steps, one suspect that works and one that does not."""

    def fails(dtype, tokens):
        raise RuntimeError(f"[METAL] {Path.home()}/x.air failed on {socket.gethostname()}")

    monkeypatch.setattr(survey, "SHAPES", ((tiny_preset, 4, 32), (tiny_preset, 2, 32)) * 2)
    kept = {"embedding's gradient": suspects.embedding, "broken": fails}
    monkeypatch.setattr(suspects, "SUSPECTS", kept)
    monkeypatch.setattr(survey, "SECONDS", 0.5)
    monkeypatch.setattr(survey, "fits", lambda *_: True)  # however busy the machine
    monkeypatch.setattr(gradient_check, "CHECKS", {"the embedding": CHECKS["the embedding"]})
    mx.disable_compile()  # whose kernels would take longer to compile than to run
    yield
    mx.enable_compile()


def test_bench_shares_figures_in_a_file(shakegpt, small, tmp_path):
    file = tmp_path / "figures.json"
    result = shakegpt("bench", "--share", file)
    assert result.code == 0, result.err
    report = json.loads(file.read_text())
    assert report["format"] == survey.FORMAT and report["finished"] and report["seconds"] > 0
    assert [p["dtype"] for p in report["products"]] == list(survey.DTYPES)
    assert all(p["gflops"] > 0 for p in report["products"])
    steps = {(p["dtype"], p["batch_size"]): p for p in report["steps"]}
    assert {dtype for dtype, _ in steps} == set(survey.DTYPES)
    assert len(steps) == len(report["steps"])
    for figures in steps.values():
        assert figures["seconds"] > 0 and figures["generation"]["tokens_per_second"] > 0
        assert figures["peak_bytes"] > 0 and figures["flops"] > 0
    assert steps["float32", 4]["finite"] and steps["bfloat16", 4]["finite"]
    assert all(p["passed"] for p in report["gradients"])
    errors = [p["error"] for p in report["suspects"] if p["what"] == "broken"]
    assert len(errors) == 3 and errors[0].startswith("RuntimeError: [METAL] …")
    text = file.read_text()
    assert str(Path.home()) not in text and str(tmp_path) not in text
    assert not re.search(rf"(?<!\w){re.escape(socket.gethostname())}(?!\w)", text)
    for words in ("GFLOP/s", "bfloat16", "sums in float32", "failed: RuntimeError", "finite"):
        assert words in result.out
    assert report["machine"]["chip"] in result.out
    again = shakegpt("bench", "--share", file)
    assert again.code == 2 and "exists; choose another name" in again.err
    assert file.read_text() == text


@pytest.mark.slow
def test_what_was_measured_before_an_interrupt_is_kept(device, small):
    kept = []

    def interrupted(title):
        if title.startswith("suspects"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey.survey(device, interrupted, lambda r: kept.append(json.loads(json.dumps(r))), 0.5)
    assert not kept[0]["products"] and not kept[-1]["finished"]
    assert len(kept[-1]["products"]) == 3 and len(kept[-1]["gradients"]) == 3


def test_share_goes_with_no_shape_and_takes_a_place_that_can_be_written(shakegpt, tmp_path):
    result = shakegpt("bench", "--share", tmp_path / "x.json", "--preset", "quick")
    assert result.code == 2 and "leave --preset out" in result.err
    (tmp_path / "file").touch()
    result = shakegpt("bench", "--share", tmp_path / "file" / "x.json")
    assert result.code == 2 and result.err.splitlines()[-1].startswith("Error: ")


def test_shapes_that_are_too_slow_or_large_are_not_timed(device, monkeypatch):
    report = {"products": [{"dtype": d, "gflops": 100.0} for d in survey.DTYPES]}
    texts = {"quick": survey.Corpus.load(None, survey.preset("quick").passage)}
    shape = ("quick", 4, 128)

    def fits(seconds, free, dtype="float32"):
        monkeypatch.setattr(survey, "free_bytes", lambda: free)
        return survey.fits(report, texts, dtype, True, seconds, shape)

    assert fits(40.0, 8 << 30) and fits(40.0, 8 << 30, "float16")
    assert not fits(0.1, 8 << 30) and not fits(40.0, 100 << 20)
    report["products"][1] = {"dtype": "float16", "error": "RuntimeError: x"}
    assert not fits(40.0, 8 << 30, "float16")


def test_a_precision_at_which_no_step_fits_is_in_the_report_as_such(monkeypatch):
    monkeypatch.setattr(survey, "SHAPES", survey.SHAPES[-2:])
    report = {"products": [{"dtype": d, "gflops": 1e-3} for d in survey.DTYPES], "steps": []}
    parts = list(survey.step_parts(report, True, 40.0))
    assert {part.labels["dtype"] for part in parts} == set(survey.DTYPES)
    for part in parts:
        with pytest.raises(ValueError, match="take more than 40 s"):
            part.measure()
    report |= {name: [] for name in survey.SECTIONS if name not in report}
    report["steps"] = [parts[0].labels | {"error": "ValueError: x"}]
    report["machine"] = survey.description(runtime.setup())
    assert "failed: ValueError: x" in tables(report)


def test_a_padded_head_is_a_multiple_of_64():
    names = list(suspects.head("float32", 8))
    assert names == ["11,707 rows", "11,712 rows"] and 11_712 % suspects.MULTIPLE == 0
