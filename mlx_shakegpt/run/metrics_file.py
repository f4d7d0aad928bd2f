"""A run's metrics.jsonl, with an object for each step and evaluation, and samples.jsonl, with what
the model said: their lines are written here, read at once, and read on while the files grow.

Knows nothing of models or MLX.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ..training import StepReport
    from .samples import TextSample

STEP = ("step", "tokens", "epoch", "loss", "lr", "norm", "dt")
EVALUATION = ("step", "eval_nll", "eval_floor", "eval_accuracy")
_REMEMBERED = 512  # bytes before the place read to, which tell whether it is the same file


def json_lines(report: StepReport) -> list[str]:
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


def sample_entry(sample: TextSample) -> str:
    """The JSON line of a sample."""
    return json.dumps({"step": sample.step, "sample": sample.text})


def read_metrics(path: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Steps and evaluations of a metrics.jsonl. Raises ValueError for a damaged line."""
    steps: list[dict[str, float]] = []
    evaluations: list[dict[str, float]] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = json.loads(line)
            evaluated = "eval_nll" in entry
            _numbers(entry, EVALUATION if evaluated else STEP)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{path} is damaged in line {number}; delete that line") from None
        (evaluations if evaluated else steps).append(entry)
    return steps, evaluations


class GrowingMetrics:
    """What a file holds so far, whole lines only, and anew where the run has gone back: steps as
    rows of the numbers in STEP, evaluations, and samples of what the model says.

    `generation` counts how often the file was cut, and so was read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.generation = path, -1
        self._begin()

    def _begin(self) -> None:
        self.generation += 1
        self.steps: list[tuple[float, ...]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        self.damaged = 0  # lines that were left out
        self._size, self._end = 0, b""

    def read_on(self) -> bool:
        """Takes the lines that were finished since; whether there were any, or the file was cut.

        Raises OSError, but not where the file is not there yet.
        """
        try:
            with open(self.path, "rb") as file:
                changed = not self._same(file)
                if changed:
                    self._begin()
                file.seek(self._size)
                # A line that is not finished will be read whole the next time.
                lines = file.read().rpartition(b"\n")
        except FileNotFoundError:
            changed, lines = self._size > 0, (b"", b"", b"")
            if changed:
                self._begin()
        whole = b"".join(lines[:2])
        for line in whole.splitlines():
            self._take(line)
        self._size += len(whole)
        self._end = (self._end + whole)[-_REMEMBERED:]
        return changed or bool(whole)

    def _same(self, file: BinaryIO) -> bool:
        """Whether what was read still stands before the place read to."""
        file.seek(self._size - len(self._end))
        return file.read(len(self._end)) == self._end

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise TypeError("not an object")
            if "sample" in entry:
                self.samples.append({"step": int(entry["step"]), "text": str(entry["sample"])})
            elif "eval_nll" in entry:
                numbers = dict(zip(EVALUATION, _numbers(entry, EVALUATION), strict=True))
                known = entry.get("eval_extracted")
                extracted = None if known is None else _numbers({"of": known}, ("of",))[0]
                complete = {"complete": bool(entry.get("eval_complete")), "extracted": extracted}
                self.evaluations.append(numbers | complete)
            elif "loss" in entry:
                self.steps.append(_numbers(entry, STEP))
        except (ValueError, KeyError, TypeError, RecursionError):
            self.damaged += 1  # by a crash, or by hand


def _numbers(entry: Mapping[str, Any], names: tuple[str, ...]) -> tuple[float, ...]:
    """Entries as numbers. Raises KeyError for one that is missing, ValueError for no number."""
    values = tuple(entry[name] for name in names)
    if not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"{values} are not all numbers")
    return values
