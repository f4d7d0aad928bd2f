"""Training: the compiled step, and the loop around it as a generator of reports."""

from .reports import RunState, StepReport
from .step import Step
from .trainer import Evaluate, NotFinite, Trainer, TrainingError

__all__ = [
    "Evaluate",
    "NotFinite",
    "RunState",
    "Step",
    "StepReport",
    "Trainer",
    "TrainingError",
]
