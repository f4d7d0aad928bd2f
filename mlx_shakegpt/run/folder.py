"""What a run's folder holds for whoever reads it: its text, its model, its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..files import as_text
from ..model.language_model import LanguageModel
from ..settings.config import Passage
from ..text.corpus import Corpus
from ..training import checkpoint
from ..weights import model_from_run
from ..weights.trained_model import TrainedModel, same_passage
from .config_file import read_config
from .names import find_run


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
