"""Where a run stands, for whoever shows it: its losses so far, what is known, the time left.

Numbers alone; how they look is another's business.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np

from ..training import StepReport, Trainer
from .log_lines import steps_to_target
from .metrics_file import read_metrics
from .names import METRICS
from .session import Run

PACED = 50  # steps over which the pace is measured


class BatchLossCurve:
    """The losses of a run's steps as means over equal spans of steps, which double in length when
    there are too many: the time and memory that it takes do not grow. One thread may note them
    while another one looks."""

    SPANS = 512

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._length, self._last = 1, 0  # steps in a span, and the last one
        self._sums, self._counts = np.zeros(self.SPANS), np.zeros(self.SPANS)

    def note(self, step: int, loss: float) -> None:
        """Takes the loss of a step, counted from 1. Later ones, of a run that went back, are
        forgotten."""
        with self._lock:
            while (span := (step - 1) // self._length) >= self.SPANS:
                for values in (self._sums, self._counts):
                    values[: self.SPANS // 2] = values[::2] + values[1::2]
                    values[self.SPANS // 2 :] = 0
                self._length *= 2
            if step <= self._last:
                self._sums[span:] = self._counts[span:] = 0
            self._last = step
            self._sums[span] += loss
            self._counts[span] += 1

    def means(self, n: int) -> np.ndarray:
        """The losses from the first step to the last at `n` places alike apart, (n,); none where
        there is no step."""
        with self._lock:
            there = self._counts > 0
            sums, counts = self._sums[there], self._counts[there]
        if len(sums) > n:
            first = np.arange(n) * len(sums) // n
            sums, counts = np.add.reduceat(sums, first), np.add.reduceat(counts, first)
        if not len(sums):
            return sums
        places = np.linspace(0, len(sums) - 1, n)
        return np.interp(places, np.arange(len(sums)), sums / counts)


class RunProgress:
    """What a run's reports add up to."""

    def __init__(self, run: Run, clock: Callable[[], float] = time.monotonic) -> None:
        """What a resumed run logged before it is part of it."""
        self._run, self._clock, self.began = run, clock, clock()
        self.report: StepReport | None = None
        self.losses = BatchLossCurve()
        if self.trainer.state.step:
            with suppress(ValueError, OSError, KeyError):  # a log that is damaged ends nothing
                for entry in read_metrics(run.path / METRICS)[0]:
                    self.losses.note(int(entry["step"]), entry["loss"])
        self._done: deque[tuple[int, float]] = deque(maxlen=PACED)  # steps, and when

    @property
    def trainer(self) -> Trainer:
        """The run's trainer: another one where it has gone back to its start."""
        return self._run.trainer

    def note(self, report: StepReport) -> None:
        """Takes a step's report."""
        self.report = report
        self.losses.note(report.step, report.loss)
        if self._done and report.step <= self._done[-1][0]:
            self._done = deque(maxlen=PACED)
        self._done.append((report.step, self._clock()))

    @property
    def seconds(self) -> float:
        """Since this began."""
        return self._clock() - self.began

    @property
    def seconds_a_step(self) -> float | None:
        """As of late, with all that is done between the steps."""
        done = self._done
        if len(done) < 2:
            return self.report.dt if self.report else None
        (first, then), (last, now) = done[0], done[-1]
        return (now - then) / (last - first)

    @property
    def seconds_to_end(self) -> float | None:
        """Until the last step that is planned."""
        if self.report is None or self.seconds_a_step is None:
            return None
        return (self.trainer.state.total - self.report.step) * self.seconds_a_step

    @property
    def seconds_to_target(self) -> float | None:
        """Until the whole text's loss is at the target if it falls on as of late; None where that
        cannot be said, or is not before the end."""
        if self.report is None or self.seconds_a_step is None:
            return None
        state, target = self.trainer.state, self.trainer.config.target_loss
        steps = steps_to_target(state.evaluations, self.report.step, target)
        if steps is None or steps >= state.total - self.report.step:
            return None
        return steps * self.seconds_a_step

    @property
    def token_losses(self) -> np.ndarray:
        """Each token's last loss in training, (N,) float32."""
        return self.trainer.curriculum.losses.nll
