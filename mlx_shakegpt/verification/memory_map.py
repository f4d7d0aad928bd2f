"""Where in a text the model fails: the worst lines, and the whole text as a heat map."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path
from ..text.lines import lines_of
from ..text.tokenizer import decode
from .loss import Scores

LEAST_NLL, LARGEST_NLL = 1e-4, 10.0  # beyond them all is equally well known, or badly
COLOURS = "viridis"
POINTS = 72  # an inch


def columns(tokens: int) -> int:
    """Cells side by side in a map of so many tokens."""
    return max(16, math.ceil(math.sqrt(2.5 * tokens)))


def worst_lines(
    ids: np.ndarray, scores: Scores, first_line: int, count: int = 10
) -> list[dict[str, Any]]:
    """Up to `count` lines with a token that is not the likeliest, the worst first: most such
    tokens, then the highest loss."""
    lines = lines_of(ids, first_line) - first_line
    tokens = np.bincount(lines)
    wrong = np.bincount(lines[1:], ~scores.hit, len(tokens)).astype(int)
    nll = np.bincount(lines[1:], scores.nll, len(tokens)) / np.maximum(tokens, 1)
    order = np.lexsort((-nll, -wrong))[:count]
    return [
        {
            "line": int(first_line + line),
            "tokens": int(tokens[line]),
            "wrong": int(wrong[line]),
            "nll": float(nll[line]),
            "text": decode(ids[lines == line].tolist()).strip("\n"),
        }
        for line in order
        if wrong[line]
    ]


def memory_map(picture: Path, ids: np.ndarray, scores: Scores, first_line: int, name: str) -> None:
    """Draws every token as a cell, in reading order, coloured by its loss, into a PNG.

    Tokens that are not the likeliest have a red mark. The scale at the left gives line numbers.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    width = columns(len(ids))
    height = math.ceil(len(ids) / width)
    cells = np.full(height * width, np.nan)
    cells[1 : len(ids)] = np.clip(scores.nll, LEAST_NLL, LARGEST_NLL)
    cell = 9 * 0.8 / width  # inches
    dots = min(300, max(150, math.ceil(2 / cell)))  # so that a cell has two, or nearly
    figure = Figure(figsize=(9, max(2.5, height * cell + 1.2)), dpi=dots, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        cells.reshape(height, width), norm=LogNorm(LEAST_NLL, LARGEST_NLL), cmap=COLOURS,
        interpolation="nearest", aspect="auto",
    )  # fmt: skip
    wrong = np.flatnonzero(~scores.hit) + 1
    mark = min(3.0, max(POINTS * cell, 4 * POINTS / dots))  # a cell, or so much that one sees it
    axes.plot(
        wrong % width, wrong // width, "s", color="red", markersize=mark, markeredgewidth=0,
        label=f"{len(wrong):,} of {len(scores.hit):,} tokens are not the likeliest",
    )  # fmt: skip
    lines = lines_of(ids, first_line)
    ticks = np.unique(np.linspace(0, height - 1, min(height, 9)).astype(int))
    axes.set_yticks(ticks, [f"{lines[tick * width]:,}" for tick in ticks])
    axes.set(xticks=[], ylabel="line", title=f"{name}: loss of each token, in reading order")
    axes.legend(
        loc="upper left", bbox_to_anchor=(0, -0.01), frameon=False, borderaxespad=0,
        markerscale=3 / mark,
    )  # fmt: skip
    figure.colorbar(image, label="nats", pad=0.01)
    with atomic_path(picture) as temporary:
        figure.savefig(temporary)
