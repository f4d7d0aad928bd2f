"""Runs: a training in its folder, and the folders by name."""

from .folder import (
    CONFIG,
    CURVE,
    LOG,
    METRICS,
    find_run,
    load_corpus,
    load_speaker,
    read_config,
    run_path,
)
from .session import Run

__all__ = [
    "CONFIG",
    "CURVE",
    "LOG",
    "METRICS",
    "Run",
    "find_run",
    "load_corpus",
    "load_speaker",
    "read_config",
    "run_path",
]
