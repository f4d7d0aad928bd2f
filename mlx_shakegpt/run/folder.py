"""What a run's folder holds for whoever reads it: its text, its model, its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..files import as_text
from ..model.language_model import LanguageModel
from ..text import assets
from ..text.collection import joined
from ..text.corpus import Corpus
from ..training import checkpoint
from ..verification.evidence import CERTIFICATE
from ..weights import model_from_run
from ..weights.trained_model import TrainedModel, part_of, same_passage
from .config_file import CONFIG, LearnedText, RunConfig, read_config
from .names import find_run, run_path


def load_corpus(path: Path) -> Corpus:
    """The text that a run learned, of several ones all of them. Raises ValueError where a file has
    changed or is gone."""
    config = read_config(path)
    if config.texts and not (config.corpus.file and config.corpus.file.exists()):
        return joined(load_texts(path))
    return _unchanged(path, config.corpus)


def load_texts(path: Path, count: int | None = None) -> list[Corpus]:
    """The texts that a run learned, or the first so many of them. Raises ValueError as
    `load_corpus`."""
    config = read_config(path)
    return [_unchanged(path, text) for text in (config.texts or (config.corpus,))[:count]]


def _unchanged(path: Path, text: LearnedText) -> Corpus:
    """A text of a run. Raises ValueError where the file has changed or is gone."""
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


def text_with(name: str | None, sha256: str) -> str | None:
    """The path of the one of a run's several texts that has a hash; None where there is none.
    Raises ValueError where there is no such run."""
    texts = read_config(find_run(name)).texts
    files = (text.file or assets.TINY_SHAKESPEARE.file for text in texts if text.sha256 == sha256)
    return next(map(str, files), None)


def certificates_before(path: Path) -> dict[str, Path]:
    """Certificates, by the text's sha256, that the run had with which a run began."""
    init = read_config(path).init
    if init is None or not init.run:
        return {}
    own = run_path(init.source) if Path(init.source).name == init.source else Path(init.source)
    if not (own / CONFIG).is_file():
        return {}
    config = read_config(own)
    files = {text.sha256: own / "texts" / text.name / CERTIFICATE for text in config.texts}
    files[config.corpus.sha256] = own / CERTIFICATE
    return {hash: file for hash, file in files.items() if file.is_file()}


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
    name: str | None,
    data: Path | None = None,
    first_line: int | None = None,
    tokens: int | None = None,
) -> TrainedModel:
    """A run's model with the text that it learned; or with the whole of another one, `data`; or
    with another part of either, as `part_of`. Raises ValueError where one of them is not to be had.
    """
    path = find_run(name)
    config = read_config(path)
    if data is None and first_line is None and tokens is None:
        return _trained(path, config, load_corpus(path))
    learned = config.passage_of(data) if data else config.corpus.passage
    corpus = Corpus.load(data or config.corpus.file, part_of(learned, first_line, tokens))
    return _trained(path, config, corpus)


def of_each_text(name: str | None) -> list[TrainedModel]:
    """A run's model with each of the texts that it learned. Raises as `of_run`."""
    path = find_run(name)
    config = read_config(path)
    return [_trained(path, config, corpus) for corpus in load_texts(path)]


def _trained(path: Path, config: RunConfig, corpus: Corpus) -> TrainedModel:
    weights = weights_file(path)
    load = partial(model_from_run, weights, config.model)
    texts = (*config.texts, config.corpus)
    learned = tuple(text.passage for text in texts if text.sha256 == corpus.sha256)
    one_of = any(same_passage(corpus, text.description) for text in config.texts)
    return TrainedModel(
        as_text(path.name), path, (weights,), corpus, load, learned,
        own_text=same_passage(corpus, config.corpus.description), one_of_its_texts=one_of,
    )  # fmt: skip
