"""A run's config.json: what it was started with, and on what. Reader and writer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..files import read_json, sha256, write_atomically
from ..settings.config import ModelConfig, Passage, TrainConfig
from ..text.corpus import Corpus

CONFIG = "config.json"


@dataclass(frozen=True)
class LearnedText:
    """The passage that a run learns: the file's name, sha256 and path (None: Tiny Shakespeare), the
    passage's first line, and the number of its tokens."""

    name: str
    sha256: str
    first_line: int
    tokens: int
    path: str | None

    @classmethod
    def of(cls, corpus: Corpus) -> LearnedText:
        """That of a corpus."""
        return cls(**corpus.description, path=corpus.path)

    @property
    def passage(self) -> Passage:
        """The same as a setting."""
        return Passage(self.first_line, self.tokens)

    @property
    def file(self) -> Path | None:
        """Where the text lies; None: Tiny Shakespeare."""
        return Path(self.path) if self.path else None

    @property
    def description(self) -> dict[str, Any]:
        """All but the path, as Corpus.description."""
        return {name: value for name, value in vars(self).items() if name != "path"}


@dataclass(frozen=True)
class InitialWeights:
    """Where the weights that a run began with came from, their files' sha256, and whether they are
    a run's."""

    source: str
    sha256: str
    run: bool = False


@dataclass(frozen=True)
class RunConfig:
    """All that config.json says.

    `texts` are those that make up `corpus`, where it is more than one; the first `rehearsed` of
    them are those of the run that it began with. `lengthened` has, for each time that a run was
    made longer, the step, epochs and steps before.
    """

    id: str
    preset: str
    recipe: str
    init: InitialWeights | None
    model: ModelConfig
    train: TrainConfig
    corpus: LearnedText
    tokenizer: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    lengthened: tuple[Mapping[str, Any], ...] = ()
    texts: tuple[LearnedText, ...] = ()
    rehearsed: int = 0

    @property
    def chosen(self) -> tuple[LearnedText, ...]:
        """The texts that it was asked to learn: all but those rehearsed, or one that is both."""
        return self.texts[self.rehearsed :] or self.texts[:1] or (self.corpus,)

    @property
    def hashes(self) -> str | list[str]:
        """The sha256 of each of the `chosen` texts, of a single one by itself."""
        hashes = [text.sha256 for text in self.chosen]
        return hashes if len(hashes) > 1 else hashes[0]

    def passage_of(self, file: Path) -> Passage:
        """What was learned of the text in a file, of two copies that of its name, else what was
        `chosen`; the whole of another text."""
        digest = sha256(file) if file.is_file() else None
        copies = [t for t in (*reversed(self.texts), self.corpus) if t.sha256 == digest]
        namesakes = [text for text in copies if text.name == file.name]
        return next((text.passage for text in namesakes + copies), Passage())

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; dtype and seed stand in it once more, for who looks for them."""
        content: dict[str, Any] = {"id": self.id, "preset": self.preset, "recipe": self.recipe}
        if self.init:
            content["init"] = vars(self.init)
        content |= {
            "model": self.model.to_json(),
            "train": self.train.to_json(),
            "corpus": vars(self.corpus),
            "tokenizer": self.tokenizer,
            "versions": self.versions,
            "device": self.device,
            "dtype": self.train.dtype,
            "seed": self.train.seed,
        }
        if self.texts:
            content["texts"] = [vars(text) for text in self.texts]
            content["rehearsed"] = self.rehearsed
        return content | ({"lengthened": list(self.lengthened)} if self.lengthened else {})

    def write(self, folder: Path) -> None:
        """Puts config.json into a run's folder, whole or not at all."""
        write_atomically(folder / CONFIG, json.dumps(self.to_json(), indent=1) + "\n")


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, and not a model's in Hugging Face's form."""
    try:
        return "train" in read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False


def read_config(folder: Path) -> RunConfig:
    """What a run's config.json says. Raises ValueError where it is damaged."""
    data = read_json(folder / CONFIG)
    try:
        init, corpus = data.get("init"), data["corpus"]
        config = RunConfig(
            id=data.get("id", ""),
            preset=data["preset"],
            recipe=data["recipe"],
            init=_initial_weights(init) if init is not None else None,
            model=ModelConfig.from_json(data["model"]),
            train=TrainConfig.from_json(data["train"]),
            corpus=_learned_text(corpus),
            tokenizer=data["tokenizer"],
            versions=data["versions"],
            device=data["device"],
            lengthened=tuple(data.get("lengthened", ())),
            texts=tuple(map(_learned_text, data.get("texts", ()))),
            rehearsed=data.get("rehearsed", 0),
        )
        _check(config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: {error}") from None
    return config


def _initial_weights(entry: Mapping[str, Any]) -> InitialWeights:
    return InitialWeights(entry["source"], entry["sha256"], bool(entry.get("run")))


def _learned_text(entry: Mapping[str, Any]) -> LearnedText:
    return LearnedText(**{f.name: entry[f.name] for f in fields(LearnedText)})


def _check(config: RunConfig) -> None:
    """Raises ValueError for entries of another type; settings check their own."""
    texts = [config.id, config.preset, config.recipe, config.device]
    for text in (config.corpus, *config.texts):
        texts += [text.name, text.sha256, text.path or ""]
        text.passage  # noqa: B018  (checks itself)
    texts += [config.init.source, config.init.sha256] if config.init else []
    for mapping in (config.tokenizer, config.versions):
        texts += [*mapping.keys(), *mapping.values()]
    if wrong := [text for text in texts if not isinstance(text, str)]:
        raise ValueError(f"{wrong[0]!r} is not a text")
    if config.rehearsed not in range(len(config.texts) + 1):
        raise ValueError(f"rehearsed is {config.rehearsed}, of {len(config.texts)} texts")
