"""Runs: a training in its folder, and the folders by name."""

from .folder import (
    CONFIG,
    CURVE,
    LOG,
    METRICS,
    find_run,
    load_corpus,
    load_model,
    of_run,
    read_config,
    run_path,
)
from .opening import open_run
from .ranks import Member, open_together
from .session import Run

__all__ = [
    "CONFIG",
    "CURVE",
    "LOG",
    "METRICS",
    "Member",
    "Run",
    "find_run",
    "load_corpus",
    "load_model",
    "of_run",
    "open_run",
    "open_together",
    "read_config",
    "run_path",
]
