"""What a run looks like to people and programs: log lines, JSON objects, tables.

Pure functions of the reports; nothing here prints. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..training import RunState, StepReport


def log_line(report: StepReport) -> str:
    """The log line of the projects whose recipes are in presets.py, plus the tokens a second."""
    return (
        f"step {report.step:5d} | loss: {report.loss:.6f} | lr: {report.lr:.2e} | "
        f"norm: {report.norm:.4f} | dt: {report.dt * 1000:.2f}ms | "
        f"tok/s: {report.tokens_per_second:.0f}"
        + (f" | spike: {report.spike:.1f} times the usual loss" if report.spike else "")
    )


def eval_line(report: StepReport) -> str:
    """The log line of an evaluated step's evaluation."""
    result = report.evaluation
    assert result is not None
    scope = "whole text" if result.complete else f"estimated on {result.tokens} tokens"
    return (
        f"eval {report.step:5d} | nll: {result.nll:.6f} | floor: {result.floor:.6f} | "
        f"accuracy: {result.accuracy:.4f} | peak: {report.peak_bytes / 1e9:.2f}GB | {scope}"
        + (f" | extracted: {result.extracted:.4f}" if result.extracted is not None else "")
        + (" | known by heart" if result.known else "")
    )


def status(report: StepReport, state: RunState, target: float, pace: float) -> str:
    """What stands beside the progress bar; `pace` is seconds a step, as of late."""
    parts = [
        f"loss {report.loss:.4f}",
        f"lr {report.lr:.1e}",
        f"{report.tokens_per_second:,.0f} tok/s",
        f"epoch {report.epoch:.1f}",
    ]
    steps = steps_to_target(state.evaluations, report.step, target)
    if steps is not None and steps < state.total - report.step:
        parts.append(f"target in {_clock(steps * pace)}")
    parts.append(f"end in {_clock((state.total - report.step) * pace)}")
    return " · ".join(parts)


class Pace:
    """Seconds that a step takes as of late: the median of the last ones, which one does not spoil
    in which the program was stopped, or the machine slept."""

    def __init__(self, steps: int = 15) -> None:
        self._last: deque[float] = deque(maxlen=steps)

    def after(self, report: StepReport) -> float:
        """The pace with one more step."""
        self._last.append(report.dt)
        return statistics.median(self._last)


def steps_to_target(
    evaluations: Sequence[Mapping[str, float]], step: int, target: float
) -> float | None:
    """Steps until the whole text's loss is at the target if its logarithm falls on as of late.

    None where it does not fall, or has not been evaluated often enough to say.
    """
    recent = evaluations[-4:]
    if len(recent) < 3 or recent[-1]["nll"] >= recent[0]["nll"]:
        return None
    first, last = recent[0], recent[-1]
    rate = math.log(first["nll"] / last["nll"]) / (last["step"] - first["step"])
    return max(0.0, last["step"] + math.log(last["nll"] / target) / rate - step)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def metrics(report: StepReport) -> list[str]:
    """JSON lines of a step: the step itself and, where it was evaluated, the evaluation."""
    names = ("step", "epoch", "tokens", "loss", "lr", "norm", "dt", "tokens_per_second")
    lines = [json.dumps({name: getattr(report, name) for name in names})]
    if result := report.evaluation:
        values = {
            "step": report.step,
            "eval_nll": result.nll,
            "eval_floor": result.floor,
            "eval_accuracy": result.accuracy,
            "eval_tokens": result.tokens,
            "eval_complete": result.complete,
            "peak_bytes": report.peak_bytes,
        }
        if result.extracted is not None:
            values |= {"eval_extracted": result.extracted, "eval_known": result.known}
        lines.append(json.dumps(values))
    return lines


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Steps and evaluations of a metrics.jsonl. Raises ValueError for a damaged line."""
    steps: list[dict[str, float]] = []
    evaluations: list[dict[str, float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            (evaluations if "eval_nll" in entry else steps).append(entry)
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged in line {number}; delete that line") from None
    return steps, evaluations
