"""A run's metrics.jsonl as it grows: whole lines only, and anew where the run has gone back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

STEP = ("step", "tokens", "epoch", "loss", "lr", "norm", "dt")
EVALUATION = ("step", "eval_nll", "eval_floor", "eval_accuracy")
_REMEMBERED = 512  # bytes before the place read to, which tell whether it is the same file


class GrowingMetrics:
    """What the file holds so far: steps as rows of the numbers in STEP, evaluations, and samples of
    what the model says. `generation` counts how often it was cut, and so was read anew."""

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
