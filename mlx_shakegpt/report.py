"""What a run looks like to people: log line, JSON objects and the loss curve.

Pure functions of the reports; nothing here prints. Knows nothing of models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_path
from .train import RunState, StepReport


def log_line(report: StepReport) -> str:
    """The seed projects' log line, plus the tokens a second."""
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
    )


def status(report: StepReport, state: RunState, target: float) -> str:
    """What stands beside the progress bar."""
    parts = [
        f"loss {report.loss:.4f}",
        f"lr {report.lr:.1e}",
        f"{report.tokens_per_second:,.0f} tok/s",
        f"epoch {report.epoch:.1f}",
    ]
    steps = steps_to_target(state.evaluations, report.step, target)
    if steps is not None and steps < state.total - report.step:
        parts.append(f"target in {_clock(steps * report.dt)}")
    parts.append(f"end in {_clock((state.total - report.step) * report.dt)}")
    return " · ".join(parts)


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
        lines.append(json.dumps(values))
    return lines


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Steps and evaluations of a metrics.jsonl. Raises ValueError for a damaged line."""
    steps: list[dict[str, float]] = []
    evaluations: list[dict[str, float]] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            entry = json.loads(line)
            (evaluations if "eval_nll" in entry else steps).append(entry)
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged in line {number}; delete that line") from None
    return steps, evaluations


def loss_curve(runs: Mapping[str, Path], picture: Path, target: float | None = None) -> None:
    """Draws the loss of runs, given as name -> metrics.jsonl, over tokens into a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FormatStrFormatter

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, (name, path) in enumerate(runs.items()):
        steps, evaluations = read_metrics(path)
        if not steps:
            raise ValueError(f"{path} holds no steps yet; train first")
        colour = f"C{index}"
        tokens = [s["tokens"] for s in steps]
        losses = [s["loss"] for s in steps]
        axes.plot(tokens, losses, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(tokens, _smooth(losses), color=colour, label=f"{name}: training loss")
        if evaluations:
            at = {s["step"]: s["tokens"] for s in steps}
            known = [e for e in evaluations if e["step"] in at]
            x, y = [at[e["step"]] for e in known], [e["eval_nll"] for e in known]
            whole = [i for i, e in enumerate(known) if e.get("eval_complete")]
            style: dict[str, Any] = {
                "color": colour,
                "markeredgecolor": "black",
                "markersize": 4,
                "linewidth": 0.8,
            }
            axes.plot(
                x, y, "o-", **style, markerfacecolor="white",
                label=f"{name}: whole text, estimated",
            )  # fmt: skip
            if whole:
                axes.plot(
                    [x[i] for i in whole], [y[i] for i in whole], "o", **style,
                    label=f"{name}: whole text, every token",
                )  # fmt: skip
    if target:
        axes.axhline(target, color="grey", linestyle="--", linewidth=1, label=f"target {target:g}")
    axes.set(yscale="log", xlabel="tokens trained", ylabel="loss, nats a token")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.grid(alpha=0.25, which="both")
    axes.legend(frameon=False)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary)


def _smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Exponential moving average with its start corrected, as Adam corrects its moments."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        result.append(mean / weight)
    return result


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
