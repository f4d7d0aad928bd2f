"""Runs by name: their folders and the files in them."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json, weights_dir
from .config_file import CONFIG

METRICS, LOG, CURVE = "metrics.jsonl", "training_log.txt", "loss.png"
SAMPLES = "samples.jsonl"


def run_path(name: str) -> Path:
    """The folder of the run called `name`. Raises ValueError for a name that is not plain."""
    if not (name and name.isprintable()) or name.startswith(".") or Path(name).name != name:
        raise ValueError(
            f"run name {name!r} must be a plain folder name, without control characters, "
            "like 'romeo'"
        )
    return weights_dir() / name


def must_be_new(path: Path) -> None:
    """Raises ValueError where a folder has a run already."""
    if (path / CONFIG).exists():
        raise ValueError(
            f"run {path.name!r} exists in {path.parent}; go on with `resume`, "
            "or choose another `run`"
        )


def find_run(name: str | None) -> Path:
    """The folder of a run, or without a name of the one that was trained last.

    Raises ValueError where there is none.
    """
    configs = (path for path in weights_dir().glob(f"*/{CONFIG}") if not _is_models(path))
    known = sorted(configs, key=_last_trained)
    if name is None:
        if not known:
            raise ValueError("no run yet; train one with `train()`")
        return known[-1].parent
    config = run_path(name) / CONFIG
    if not config.exists() or _is_models(config):
        there = ", ".join(p.parent.name for p in known) or "none"
        raise ValueError(f"no run {name!r} in {weights_dir()}; there are: {there}")
    return config.parent


def _is_models(config: Path) -> bool:
    """Whether a config.json is a model's in Hugging Face's form, such as an export's, and no
    run's; a damaged one may be."""
    try:
        return "model_type" in read_json(config)
    except (OSError, ValueError):
        return False


def _last_trained(config: Path) -> float:
    metrics = config.with_name(METRICS)
    return (metrics if metrics.exists() else config).stat().st_mtime
