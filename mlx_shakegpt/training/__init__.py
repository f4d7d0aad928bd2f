"""Training: the compiled step, and the loop around it as a generator of reports."""

from .loop import Evaluate, Trainer, TrainingError
from .reports import Evaluation, RunState, StepReport
from .step import Step

__all__ = [
    "Evaluate",
    "Evaluation",
    "RunState",
    "Step",
    "StepReport",
    "Trainer",
    "TrainingError",
]
