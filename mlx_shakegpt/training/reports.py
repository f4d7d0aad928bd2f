"""What the trainer reports of a step, and the errors that end a training."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings.errors import NotReached
from ..verification.loss import Evaluation


class TrainingError(NotReached):
    """Training cannot go on."""


class NotFinite(TrainingError):
    """A loss or a gradient is infinite or no number, as rates that are too high make them."""


@dataclass(frozen=True)
class StepReport:
    """One training step. `norm` is before clipping, `dt` in seconds; `tokens` are those trained so
    far, this step's included; `peak_bytes` is the most memory that the process has used. `spike` is
    the loss divided by the median of recent ones, where it stands out, else 0.

    Where `settled`, the trainer's weights are those right after this step, and may be saved.
    """

    step: int
    epoch: float
    tokens: int
    loss: float
    lr: float
    norm: float
    dt: float
    tokens_per_second: float
    peak_bytes: int = 0
    spike: float = 0.0
    settled: bool = False
    evaluation: Evaluation | None = None
