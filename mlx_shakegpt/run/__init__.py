"""Runs: a training in its folder, and the folders by name."""

from .config_file import CONFIG, RunConfig, read_config
from .folder import CURVE, LOG, METRICS, find_run, load_corpus, load_model, of_run, run_path
from .opening import open_run
from .plan import RunPlan, plan_run
from .ranks import Member, open_together
from .session import Run

__all__ = [
    "CONFIG",
    "CURVE",
    "LOG",
    "METRICS",
    "Member",
    "Run",
    "RunConfig",
    "RunPlan",
    "find_run",
    "load_corpus",
    "load_model",
    "of_run",
    "open_run",
    "open_together",
    "plan_run",
    "read_config",
    "run_path",
]
