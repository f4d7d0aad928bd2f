"""A run as its files tell it, while it trains and after: what a page shows that follows it.

Reads config.json, metrics.jsonl, checkpoints and the certificate, and writes nothing; so it works
on another machine's disk too, and cannot disturb a training. Knows nothing of servers or MLX.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from ..files import as_text
from .checkpoint_progress import FINAL, CheckpointProgress, newest_progress
from .config_file import read_config
from .log_lines import steps_to_target
from .loss_levels import LEAST, LEVELS, MOST, UNTRAINED, known, levels_of
from .metrics_file import STEP, GrowingMetrics
from .names import METRICS, SAMPLES
from .places import Places
from .shown_certificate import ShownCertificate

MOST_STEPS = 5000  # in one answer
MOST_TOKENS = 2048  # in one answer
RECENT = 50  # steps whose median time tells the pace
QUIET_SECONDS, QUIET_STEPS = 60, 20  # without a step, after which it may no longer train


class WatchedRun:
    """A run to follow. Its answers are JSON-ready, and any thread may ask."""

    def __init__(self, folder: Path, data: Path | None = None) -> None:
        """`data` is where the text lies, if not where the run had it. Raises ValueError or OSError
        where the folder has no run."""
        self.folder, self.config = folder, read_config(folder)
        self.ended = False  # the training that this began with is known to be over
        self._data, self._places = data, Places(self.config.corpus, data)
        self._metrics = GrowingMetrics(folder / METRICS)
        self._samples = GrowingMetrics(folder / SAMPLES)
        self._checkpoint: CheckpointProgress | None = None
        self._certificate = ShownCertificate(folder)
        self._mark, self._lock = secrets.token_hex(4), Lock()
        self._grown: float | None = None  # when the metrics last did, by the monotonic clock

    def check_text(self) -> None:
        """Raises ValueError where the text was said to lie somewhere and cannot be shown from
        there; where the run had it, it may be gone."""
        if self._data and self._places.missing:
            raise ValueError(f"{self._places.missing}; name its place with `data`, or none")

    def progress(self, generation: str, steps: int, evaluations: int, samples: int) -> dict:
        """All that is new to somebody who has so many steps, evaluations and samples of a
        generation; of another one, everything, up to MOST_STEPS steps at a time."""
        with self._lock:
            problems = self._read_on()
            metrics = self._metrics
            current = f"{self._mark}{self.config.id}-{metrics.generation}"
            if generation != current:
                steps = evaluations = samples = 0
            rows = metrics.steps[steps : steps + MOST_STEPS]
            new = self._samples.samples[samples:]
            return {
                "generation": current,
                "run": self._description(),
                "state": self._state(),
                "steps": {name: [_short(row[i]) for row in rows] for i, name in enumerate(STEP)},
                "more": steps + len(rows) < len(metrics.steps),
                "evaluations": metrics.evaluations[evaluations:],
                "samples": [
                    {"step": s["step"], "pieces": self._places.marked(s["text"])} for s in new
                ],
                "map": self._map(),
                "certificate": self._certificate.of_text(self.config.corpus.sha256),
                "problems": problems,
            }

    def map(self) -> tuple[str, bytes]:
        """The version of the newest checkpoint, and one byte a token; both empty without one."""
        with self._lock:
            self._checkpoint = newest_progress(self.folder, self._checkpoint)
            latest = self._checkpoint
            return (latest.version, levels_of(latest.losses).tobytes()) if latest else ("", b"")

    def tokens(self, start: int, stop: int) -> dict[str, Any]:
        """The text of tokens [start, stop), MOST_TOKENS at most."""
        with self._lock:
            start = max(0, start)
            return self._places.tokens(start, max(start, min(stop, start + MOST_TOKENS)))

    def _read_on(self) -> list[str]:
        """Takes what the run has written since; what is wrong with it."""
        problems = []
        try:
            config = read_config(self.folder)  # which a longer plan or a moved text changes
            if config.corpus != self.config.corpus:
                self._places = Places(config.corpus, self._data)
            self.config = config
            self._samples.read_on()
            if self._metrics.read_on() or self._grown is None:
                # Later on, another machine's clock need not agree with this one's.
                self._grown = time.monotonic() - (self._age() if self._grown is None else 0)
        except (OSError, ValueError) as error:
            problems.append(f"the run's files cannot be read now: {as_text(str(error))}")
        self._checkpoint = newest_progress(self.folder, self._checkpoint)
        if damaged := self._metrics.damaged:
            problems.append(f"{METRICS} has damaged lines, which are left out: {damaged}")
        return problems

    def _age(self) -> float:
        """Seconds since the run wrote a step, by the file's time."""
        with suppress(OSError):
            return max(0.0, time.time() - self._metrics.path.stat().st_mtime)
        return 0.0

    def _description(self) -> dict[str, Any]:
        config = self.config
        return {
            "name": as_text(self.folder.name),
            "preset": config.preset,
            "recipe": config.recipe,
            "device": config.device,
            "parameters": config.model.n_parameters,
            "text": config.corpus.name,
            "tokens": config.corpus.tokens,
            "first_line": config.corpus.first_line,
            "target": config.train.target_loss,
            "stop": config.train.stop,
        }

    def _state(self) -> dict[str, Any]:
        """Where the run stands: `phase` is waiting, training, quiet, stopped or over."""
        metrics = self._metrics
        last = dict(zip(STEP, metrics.steps[-1], strict=True)) if metrics.steps else None
        step = int(last["step"]) if last else 0
        recent = [row[STEP.index("dt")] for row in metrics.steps[-RECENT:]]
        pace = statistics.median(recent) if recent else 0.0
        silent = 0.0 if self._grown is None else time.monotonic() - self._grown
        over = self._over(step)
        if over:
            phase = "over"
        elif self.ended:
            phase = "stopped"
        elif silent > max(QUIET_SECONDS, QUIET_STEPS * pace):
            phase = "quiet"
        else:
            phase = "training" if last else "waiting"
        total, exact = self._total(last)
        going = phase == "training" and total
        return {
            "phase": phase, "step": step, "total": total, "exact": exact,
            "known": bool(over and over.known), "reached": bool(over and over.reached),
            "silent": round(silent), "pace": pace, "epoch": last["epoch"] if last else 0,
            "left": (total - step) * pace if going else None,
            "target_in": self._target_in(step, pace) if going else None,
        }  # fmt: skip

    def _over(self, step: int) -> CheckpointProgress | None:
        """The last checkpoint of a run whose last step was `step`; None where it is not over."""
        latest, final = self._checkpoint, self.folder / FINAL
        over = latest and step == latest.step == latest.total and final.exists()
        return latest if over else None

    def _total(self, last: Mapping[str, float] | None) -> tuple[int, bool]:
        """Steps at most, and whether that is exact: as the newest checkpoint has it; else, as
        epochs are of nearly the same number of steps, by those so far. 0 where nothing tells."""
        train, latest = self.config.train, self._checkpoint
        if latest and latest.length == (train.epochs, train.steps):
            return latest.total, True
        if train.steps or last is None or not last["epoch"]:
            return train.steps, bool(train.steps)
        return max(1, round(train.epochs * last["step"] / last["epoch"])), False

    def _target_in(self, step: int, pace: float) -> float | None:
        """Seconds until the loss of the whole text may be at the target."""
        points = [{"step": e["step"], "nll": e["eval_nll"]} for e in self._metrics.evaluations]
        if any(point["nll"] <= 0 for point in points[-4:]):
            return None
        steps = steps_to_target(points, step, self.config.train.target_loss)
        return None if steps is None else steps * pace

    def _map(self) -> dict[str, Any] | None:
        latest = self._checkpoint
        if latest is None:
            return None
        scale = {"least": LEAST, "most": MOST, "levels": LEVELS, "untrained": UNTRAINED}
        share = known(latest.losses)
        more = {"tokens": len(latest.losses), "likeliest": share, "missing": self._places.missing}
        return {"version": latest.version, "step": latest.step} | scale | more


def _short(value: float) -> float:
    """A number with the digits that a picture shows."""
    return value if isinstance(value, int) else float(f"{value:.5g}")
