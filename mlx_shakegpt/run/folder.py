"""Runs by name: their folders, settings and weights, for whoever reads them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..files import as_text, weights_dir
from ..model.language_model import LanguageModel
from ..settings.config import Passage
from ..text.corpus import Corpus
from ..training import checkpoint
from ..weights import model_from_run
from ..weights.trained_model import TrainedModel, same_passage
from .config_file import CONFIG, read_config

METRICS, LOG, CURVE = "metrics.jsonl", "training_log.txt", "loss.png"


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
    known = sorted(weights_dir().glob(f"*/{CONFIG}"), key=_last_trained)
    if name is None:
        if not known:
            raise ValueError("no run yet; train one with `train()`")
        return known[-1].parent
    if not (run_path(name) / CONFIG).exists():
        there = ", ".join(p.parent.name for p in known) or "none"
        raise ValueError(f"no run {name!r} in {weights_dir()}; there are: {there}")
    return run_path(name)


def _last_trained(config: Path) -> float:
    metrics = config.with_name(METRICS)
    return (metrics if metrics.exists() else config).stat().st_mtime


def load_corpus(path: Path) -> Corpus:
    """The text that a run learned. Raises ValueError where the file has changed or is gone."""
    text = read_config(path).corpus
    try:
        corpus = Corpus.load(text.file, text.passage)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    if corpus.sha256 != text.sha256:
        raise ValueError(
            f"{text.path or text.name} is not the text that run {path.name!r} learned: its "
            f"sha256 is {corpus.sha256}, not {text.sha256}; put the old text back"
        )
    return corpus


def load_model(path: Path) -> LanguageModel:
    """The model of a run. Raises ValueError where it has no weights yet."""
    return model_from_run(weights_file(path), read_config(path).model)


def newest_checkpoint(path: Path) -> tuple[Path | None, list[str]]:
    """A run's newest sound checkpoint, None where it has none yet, and what is wrong with newer
    ones. Raises ValueError where all are damaged or gone."""
    newest, damaged = checkpoint.newest(path / "checkpoints")
    if newest is None and damaged:
        raise ValueError(f"no sound checkpoint is left: {damaged[0]}; start another `run`")
    if newest is None and (path / checkpoint.MODEL).exists():
        raise ValueError(
            f"run {path.name!r} is over and its checkpoints are gone; start another `run`"
        )
    return newest, damaged


def weights_file(path: Path) -> Path:
    """A run's final weights, or those of its newest sound checkpoint.

    Raises ValueError where there are none yet.
    """
    final = path / checkpoint.MODEL
    if not final.exists():
        newest, damaged = checkpoint.newest(path / "checkpoints")
        if newest is None:
            reason = damaged[0] if damaged else "it has no checkpoint yet"
            raise ValueError(f"run {path.name!r} has no weights: {reason}; train on with `resume`")
        final = newest / checkpoint.MODEL
    return final


def of_run(
    name: str | None, data: Path | None = None, passage: Passage | None = None
) -> TrainedModel:
    """A run's model with the text that it learned; or with the whole of another one, `data`, or
    with another passage. Raises ValueError where one of them is not to be had."""
    path = find_run(name)
    config = read_config(path)
    text = config.corpus
    if data is None and passage is None:
        corpus = load_corpus(path)
    else:
        corpus = Corpus.load(data or text.file, passage or Passage())
    learned = text.passage if corpus.sha256 == text.sha256 else None
    weights = weights_file(path)
    load = partial(model_from_run, weights, config.model)
    own_text = same_passage(corpus, text.description)
    return TrainedModel(as_text(path.name), path, (weights,), corpus, load, learned, own_text)
