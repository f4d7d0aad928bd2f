"""The plan of a run that goes on, which has to agree with what it was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..settings.config import RUN_LENGTH, Passage, TrainConfig
from ..settings.presets import AUTO
from ..text.collection import joined, text_files
from ..text.corpus import Corpus
from .config_file import LearnedText, RunConfig, read_config
from .folder import load_corpus, load_texts
from .plan import RunPlan
from .pretrained import pretrained
from .texts import Progress, merge_texts, read_corpus

_NO_OPTION = {  # settings of a `config` file that no option has
    "model": "a [model] of",
    "data_sha256": "texts whose sha256 are",
    "init_sha256": "weights whose sha256 is",
}


def resumed_plan(path: Path, settings: Mapping[str, Any], progress: Progress | None) -> RunPlan:
    """A run that goes on with the settings that it was started with, but for its length.

    Raises ValueError, or OSError, for what cannot be had or does not agree with the run.
    """
    saved = read_config(path)
    config = _lengthened(saved.train, settings)
    data, texts = settings.get("data"), saved.texts
    passage = saved.chosen[0].passage if len(saved.chosen) == 1 else Passage()
    if settings.get("corpus_tokens") == 0:
        there = saved.chosen[0].path if data is None else data
        whole = read_corpus(there, replace(passage, tokens=0), progress)
        settings = {**settings, "corpus_tokens": len(whole.ids)}
    _must_agree(path, replace(saved, train=config), settings)
    if not texts:
        corpus = read_corpus(saved.corpus.path if data is None else data, passage, progress)
    elif data is not None:
        new = [Corpus.load(file, saved.passage_of(file)) for file in text_files(data)]
        moved = merge_texts(load_texts(path, saved.rehearsed), new)
        corpus, texts = joined(moved), tuple(map(LearnedText.of, moved))
    else:
        corpus = load_corpus(path)
    start, init = None, saved.init
    if init and not any((path / "checkpoints").glob("[0-9]*")):  # which hold all that is left of it
        start = pretrained(init.source, init.sha256)
    return RunPlan(
        path, saved.preset, saved.recipe, saved.model, config, corpus, start, resumed=True,
        texts=texts, rehearsed=saved.rehearsed,
    )  # fmt: skip


def _lengthened(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A run's configuration with the number of epochs or steps that is asked for, if any."""
    length = {name: settings[name] for name in RUN_LENGTH & settings.keys()}
    if "epochs" in length:
        length.setdefault("steps", 0)  # which would count before epochs
    return replace(config, **length)


def _must_agree(path: Path, saved: RunConfig, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where an option contradicts what a run was started with."""
    one = saved.chosen[0] if len(saved.chosen) == 1 else saved.corpus
    started = saved.train.to_json() | {
        "preset": saved.preset,
        "recipe": saved.recipe,
        "init": saved.init.source if saved.init else "none",
        "init_sha256": saved.init.sha256 if saved.init else "none",
        "model": saved.model.to_json(),
        "data_sha256": saved.hashes,
        "first_line": one.first_line,
        "corpus_tokens": one.tokens,
    }
    if saved.init and saved.init.run:
        started["rehearse"] = saved.rehearsed > 0
    init = settings.get("init", started["init"])
    if init != started["init"] and (folder := Path(init).expanduser()).is_dir():
        settings = {**settings, "init": str(folder.resolve())}
    for key, value in settings.items():
        if value != started.get(key, value) and value != AUTO:
            what = _NO_OPTION.get(key, f"`{key}`")
            raise ValueError(
                f"run {path.name!r} was started with {what} {started[key]}; resume it "
                "so, or start another `run`"
            )
