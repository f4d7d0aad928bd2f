"""Runs: a training in its folder, and the folders by name."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config_file import CONFIG, RunConfig, read_config
    from .folder import (
        certificates_before,
        load_corpus,
        load_model,
        of_each_text,
        of_run,
        text_with,
    )
    from .names import CURVE, LOG, METRICS, find_run, run_path
    from .opening import open_run
    from .plan import RunPlan
    from .planning import plan_run
    from .ranks import Member, open_together
    from .session import Run

# Light ones first.
_MODULES = ("config_file", "names", "folder", "plan", "planning", "opening", "session", "ranks")
__all__ = [
    "CONFIG",
    "CURVE",
    "LOG",
    "METRICS",
    "Member",
    "Run",
    "RunConfig",
    "RunPlan",
    "certificates_before",
    "find_run",
    "load_corpus",
    "load_model",
    "of_each_text",
    "of_run",
    "open_run",
    "open_together",
    "plan_run",
    "read_config",
    "run_path",
    "text_with",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: who only reads a run's files needs no MLX."""
    if name in __all__:
        for module in (import_module(f".{each}", __name__) for each in _MODULES):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
