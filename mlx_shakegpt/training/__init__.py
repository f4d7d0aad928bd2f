"""Training: the compiled step, and the loop around it as a generator of reports."""

from .loop import Evaluate, NotFinite, Trainer, TrainingError
from .reports import RunState, StepReport
from .step import Step

__all__ = [
    "Evaluate",
    "NotFinite",
    "RunState",
    "Step",
    "StepReport",
    "Trainer",
    "TrainingError",
]
