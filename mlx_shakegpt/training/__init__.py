"""Training: the compiled step, and the loop around it as a generator of reports."""

from .reports import NotFinite, StepReport, TrainingError
from .run_state import RunState
from .step import Step
from .trainer import Evaluate, Trainer

__all__ = [
    "Evaluate",
    "NotFinite",
    "RunState",
    "Step",
    "StepReport",
    "Trainer",
    "TrainingError",
]
