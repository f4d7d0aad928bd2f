"""What a run looks like to people: the lines of its log, and when it will have reached its target.

Pure functions of the reports; nothing here prints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..training import StepReport
    from .samples import TextSample


def duration(seconds: float) -> str:
    """A time to come, as one says it: 71 seconds, 12 minutes."""
    return f"{seconds / 60:,.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


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


def known_line(step: int, known: float) -> str:
    """How much of the text is known after a step, `progress.known`."""
    return f"known {step:4d} | {known:.1%} of the text's tokens likelier than all others together"


def sample_line(sample: TextSample) -> str:
    """What the model says, with its lines set apart as verse in a line of prose is."""
    lines = " / ".join(line.strip() for line in sample.text.splitlines() if line.strip())
    return f"says {sample.step:5d} | {lines} | word for word in the text: {sample.share:.1%}" + (
        f", up to {sample.longest} words" if sample.longest else ""
    )


def steps_to_target(
    evaluations: Sequence[Mapping[str, float]], step: int, target: float
) -> float | None:
    """Steps until the whole text's loss is at the target if its logarithm falls on as of late.

    None where it is there already, does not fall, or has not been evaluated often enough to say.
    """
    recent = evaluations[-4:]
    if len(recent) < 3 or not target < recent[-1]["nll"] < recent[0]["nll"]:
        return None
    first, last = recent[0], recent[-1]
    rate = math.log(first["nll"] / last["nll"]) / (last["step"] - first["step"])
    return max(0.0, last["step"] + math.log(last["nll"] / target) / rate - step)
