"""A model together with the text that it is to know, from a run or an exported folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from .. import assets
from ..config import Passage
from ..corpus import Corpus
from ..files import sha256
from ..weights import Speaker, learned_text, speaker_from_hf, weights_files
from .folder import find_run, load_corpus, load_speaker, read_config, weights_file


@dataclass(frozen=True)
class Subject:
    """A model, read when first needed, its folder, its weights' files, and the text to know."""

    name: str
    folder: Path
    weights: tuple[Path, ...]
    corpus: Corpus
    load: Callable[[], Speaker]

    @cached_property
    def speaker(self) -> Speaker:
        return self.load()


def of_run(name: str | None, data: Path | None = None, passage: Passage | None = None) -> Subject:
    """A run's model with the text that it learned; or with the whole of another one, `data`, or
    with another passage. Raises ValueError where one of them is not to be had."""
    path = find_run(name)
    if data is None and passage is None:
        corpus = load_corpus(path)
    else:
        own = read_config(path)["corpus"]["path"]
        corpus = Corpus.load(data or (Path(own) if own else None), passage or Passage())
    return Subject(path.name, path, (weights_file(path),), corpus, partial(load_speaker, path))


def of_folder(folder: Path, data: Path | None = None, passage: Passage | None = None) -> Subject:
    """An exported model with the passage that its config.json tells, of Tiny Shakespeare or of
    `data`; or with another passage. Raises ValueError where one of them is not to be had."""
    learned = learned_text(folder)
    if passage is None and learned:
        own = data or assets.ensure(assets.TINY_SHAKESPEARE)
        if own.is_file() and sha256(own) == learned["sha256"]:
            passage = Passage(learned["first_line"], learned["tokens"])
        elif data is None:
            raise ValueError(f"{folder} learned {learned['name']}; give that text with --data")
    corpus = Corpus.load(data, passage or Passage())
    load = partial(speaker_from_hf, folder)
    return Subject(folder.resolve().name, folder, weights_files(folder), corpus, load)
