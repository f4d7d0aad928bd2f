"""A model together with the text that it is to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ..files import as_text, sha256
from ..model.language_model import LanguageModel
from ..settings.config import Passage
from ..text import assets
from ..text.corpus import Corpus
from .huggingface import learned_text, model_from_hf, stored_dtype, weights_files, weights_hash

Stamps = list[tuple[int, ...]]


@dataclass(frozen=True)
class TrainedModel:
    """A model, read when first needed, its folder, its weights' files, and the text to know.

    `learned` are the passages that the model learned of the same text; `own_text` is false where
    the folder tells of another text or passage that was learned, of which this may be
    `one_of_its_texts`.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    corpus: Corpus
    load: Callable[[], LanguageModel]
    learned: tuple[Passage, ...] = ()
    own_text: bool = True
    one_of_its_texts: bool = False

    @property
    def language_model(self) -> LanguageModel:
        return self._read[0]

    def hashed(self) -> dict[str, str]:
        """Name, sha256 and dtype of the weights that `language_model` was read from.

        Raises ValueError where other ones have taken their place since.
        """
        _, before = self._read
        try:
            identity = {"sha256": weights_hash(self.weights), "dtype": stored_dtype(self.weights)}
            same = stamps(self.weights) == before
        except FileNotFoundError:
            same = False
        if not same:
            raise ValueError(
                f"the weights of {self.name!r} were written anew since they were read; run "
                "this again"
            )
        return {"name": self.weights[0].name} | identity

    @cached_property
    def _read(self) -> tuple[LanguageModel, Stamps]:
        before = stamps(self.weights)
        return self.load(), before


def stamps(files: tuple[Path, ...]) -> Stamps:
    """What tells one version of a file from another without reading it."""
    return [(s.st_ino, s.st_size, s.st_mtime_ns) for s in (file.stat() for file in files)]


def part_of(learned: Passage, first_line: int | None, tokens: int | None) -> Passage:
    """So many tokens (0: all) from a line on, by default where a learned passage begins; that
    passage where neither is asked for."""
    if first_line is None and tokens is None:
        return learned
    return Passage(first_line or learned.first_line, tokens or 0)


def of_folder(
    folder: Path,
    data: Path | None = None,
    first_line: int | None = None,
    tokens: int | None = None,
    name: str | None = None,
) -> TrainedModel:
    """An exported model with the passage that its config.json tells, of Tiny Shakespeare or of
    `data`; or with another part, as `part_of`. Its name is `name`, else the folder's. Raises
    ValueError where one of them is not to be had."""
    description, learned = learned_text(folder), None
    if description:
        if data is None and description["sha256"] != assets.TINY_SHAKESPEARE.sha256:
            raise ValueError(f"{folder} learned {description['name']}; give that text as `data`")
        if data is None or (data.is_file() and sha256(data) == description["sha256"]):
            learned = Passage(description["first_line"], description["tokens"])
    corpus = Corpus.load(data, part_of(learned or Passage(), first_line, tokens))
    passages = (learned,) if learned else ()
    load, files = partial(model_from_hf, folder), weights_files(folder)
    name = as_text(name or folder.resolve().name)
    own = description is None or same_passage(corpus, description)
    return TrainedModel(name, folder, files, corpus, load, passages, own)


def same_passage(corpus: Corpus, description: Mapping[str, Any]) -> bool:
    """Whether a corpus is the passage of the text that a folder tells of."""
    return all(
        corpus.description[name] == description[name] for name in ("sha256", "first_line", "tokens")
    )
