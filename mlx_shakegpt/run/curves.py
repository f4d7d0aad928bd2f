"""A run's curves as a picture: loss, learning rate and norm of one run or of several.

Knows nothing of models; it reads metrics.jsonl.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic_path
from .metrics_file import read_metrics

ACROSS = {"tokens": "tokens trained", "time": "hours of training"}
# Colours that differ on white and on black, also for those who see few (Wong, 2011).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LIGHT_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00")
DARK: dict[Any, Any] = {
    "figure.facecolor": "#0d1117", "axes.facecolor": "#0d1117", "savefig.facecolor": "#0d1117",
    "text.color": "#e6edf3", "axes.labelcolor": "#e6edf3", "axes.edgecolor": "#6e7681",
    "xtick.color": "#e6edf3", "ytick.color": "#e6edf3", "grid.color": "#6e7681",
}  # fmt: skip


@dataclass(frozen=True)
class _Curves:
    """A run's steps and evaluations, by their place across the picture."""

    name: str
    x: list[float]
    steps: list[dict[str, float]]
    at: dict[int, float]
    evaluations: list[dict[str, float]]


def loss_curve(
    runs: Mapping[str, Path],
    picture: Path,
    target: float | None = None,
    across: str = "tokens",
    dark: bool = False,
) -> None:
    """Draws runs, given as name -> metrics.jsonl, over `tokens` or `time` into a PNG.

    Above the loss on a logarithmic scale, raw and smoothed, with evaluations of the whole text,
    its floor and the target; beneath the learning rate and the gradient's norm. Raises ValueError
    for a run without steps, or damaged metrics.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FormatStrFormatter

    with mpl.rc_context(DARK if dark else {}):
        figure = Figure(figsize=(8, 6.5), dpi=120, layout="constrained")
        panels = figure.subplots(3, sharex=True, height_ratios=(4, 1, 1))
        colours = itertools.cycle(LIGHT_COLOURS if dark else COLOURS)
        for name, path in runs.items():
            _draw(panels, _read(name, path, across), next(colours), len(runs) == 1)
        loss, rate, norm = panels
        if target:
            loss.axhline(target, color="grey", linestyle="--", linewidth=1)
            loss.annotate(
                f"target {target:g}", (1, target), xycoords=loss.get_yaxis_transform(),
                xytext=(-4, 3), textcoords="offset points", ha="right", fontsize=8, color="grey",
            )  # fmt: skip
        loss.set(yscale="log", ylabel="loss, nats a token")
        loss.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        # Where falling lines are not; "best" would search, and warn that it takes long.
        loss.legend(loc="upper right", frameon=False, fontsize=9)
        rate.set_ylabel("rate")
        norm.set(yscale="log", ylabel="norm", xlabel=ACROSS[across])
        norm.xaxis.set_major_formatter(
            EngFormatter() if across == "tokens" else FormatStrFormatter("%g")
        )
        for axes in panels:
            axes.grid(alpha=0.25, which="major")
        figure.align_ylabels()
        with atomic_path(picture) as temporary:
            figure.savefig(temporary)


def _read(name: str, path: Path, across: str) -> _Curves:
    steps, evaluations = read_metrics(path)
    if not steps:
        raise ValueError(f"{path} holds no steps yet; train first")
    x = [float(s["tokens"]) for s in steps]
    if across == "time":
        x = [seconds / 3600 for seconds in itertools.accumulate(s["dt"] for s in steps)]
    at = {int(s["step"]): place for s, place in zip(steps, x, strict=True)}
    known = [e for e in evaluations if e["step"] in at]
    return _Curves(name, x, steps, at, known)


def _draw(panels: Any, run: _Curves, colour: str, alone: bool) -> None:
    """One run's lines in the panels of loss, rate and norm."""
    loss, rate, norm = panels
    losses = [s["loss"] for s in run.steps]
    label = "" if alone else f"{run.name}: "
    loss.plot(run.x, losses, color=colour, alpha=0.25, linewidth=0.7)
    loss.plot(run.x, smooth(losses), color=colour, label=f"{label}training batches, smoothed")
    style: dict[str, Any] = {"color": colour, "markersize": 4.5, "linewidth": 0.9}
    style |= {"marker": "o", "linestyle": ":", "markeredgewidth": 1}
    every = [e for e in run.evaluations if e.get("eval_complete")]
    if run.evaluations:
        points = _points(run, run.evaluations, "eval_nll")
        loss.plot(*points, **style, markerfacecolor="none", label=f"{label}whole text, estimated")
    if every:
        style["linestyle"] = "none"
        loss.plot(*_points(run, every, "eval_nll"), **style, label=f"{label}whole text, all of it")
    floors = [e for e in run.evaluations if e["eval_floor"] > 0]
    if floors and min(e["eval_nll"] for e in floors) < 100 * floors[-1]["eval_floor"]:
        points = _points(run, floors, "eval_floor")
        loss.plot(*points, color=colour, linestyle="-.", linewidth=0.8, label=f"{label}floor")
    rate.plot(run.x, [s["lr"] for s in run.steps], color=colour)
    norm.plot(run.x, [s["norm"] for s in run.steps], color=colour, alpha=0.25, linewidth=0.7)
    norm.plot(run.x, smooth([s["norm"] for s in run.steps]), color=colour)


def _points(
    run: _Curves, entries: Sequence[Mapping[str, float]], name: str
) -> tuple[list[float], list[float]]:
    return [run.at[int(e["step"])] for e in entries], [e[name] for e in entries]


def smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """Mean of the logarithms' exponential moving averages from both ends, each with its start
    corrected (Kingma and Ba, 2015, section 3): a line through falling values that does not lag.

    Equal values stay the same to the bit: an axis of two that are next to each other has no height.
    """
    top = max(values, default=0.0) or sys.float_info.min
    logs = [math.log(max(value, sys.float_info.min)) - math.log(top) for value in values]
    ahead, back = _moving(logs, share), _moving(logs[::-1], share)[::-1]
    return [top * math.exp((one + other) / 2) for one, other in zip(ahead, back, strict=True)]


def _moving(values: Sequence[float], share: float) -> list[float]:
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        result.append(mean / weight)
    return result
