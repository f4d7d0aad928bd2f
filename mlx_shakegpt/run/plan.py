"""What a run will be, from what was asked for by name, before anything is written or built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..runtime import Runtime
from ..settings.config import RUN_LENGTH, ModelConfig, Passage, TrainConfig
from ..settings.presets import (
    DEFAULT_RECIPE,
    PRESETS,
    default_preset,
    dtype_of,
    fit_to_text,
    preset,
    preset_like,
    recipe,
)
from ..text.collection import joined, text_files
from ..text.corpus import Corpus
from ..text.vocabulary import Vocabulary
from ..training import cost
from .config_file import CONFIG, LearnedText, RunConfig, read_config
from .folder import load_corpus, load_texts
from .names import must_be_new, run_path
from .pretrained import Pretrained, pretrained
from .settings_file import with_file
from .texts import Progress, check_hashes, merge_texts, read_corpus, read_texts

_NAMES = (
    "preset", "recipe", "run", "data", "first_line", "corpus_tokens", "init", "rehearse", "config",
    "model", "data_sha256", "init_sha256",  # which a settings file has
)  # fmt: skip
# What weights that know how to attend want instead; `lr` is about GPT-2's own.
PRETRAINED = {"closed_vocab": False, "positions": "learned", "zero_residual": False}
PRETRAINED |= {"first_blocks": 0, "optimizer": "adamw", "lr": 1e-4}
CUSTOM = "custom"  # the preset of a model that has the shape of none


@dataclass(frozen=True)
class RunPlan:
    """A run to begin, or with `resumed` to go on with. `start` are the weights to begin with, None
    for random ones; `by_default` tells whether the machine chose the preset. Where the corpus is
    made of several `texts`, the first `rehearsed` are those of the run that it begins with."""

    path: Path
    preset: str
    recipe: str
    model: ModelConfig
    config: TrainConfig
    corpus: Corpus
    start: Pretrained | None = None
    resumed: bool = False
    by_default: bool = False
    texts: tuple[LearnedText, ...] = ()
    rehearsed: int = 0

    def to_json(self) -> dict[str, Any]:
        """What has to be the same for all who share the run's work."""
        return {
            "path": str(self.path),
            "model": self.model.to_json(),
            "train": self.config.to_json(),
            "corpus": vars(LearnedText.of(self.corpus)),
            "texts": len(self.texts),
            "rehearsed": self.rehearsed,
        }


def plan_run(
    runtime: Runtime,
    settings: Mapping[str, Any],
    resume: bool = False,
    progress: Progress | None = None,
) -> RunPlan:
    """The plan of a new run, or with `resume` of the one of that name, if it exists.

    `settings` may have preset, recipe, run (a name), data (a path to a text or a folder of texts,
    or several), first_line, corpus_tokens, init (a run, a folder or a hub id), rehearse (whether to
    learn an initial run's texts again, by default true), model (a shape instead of a preset's), the
    data_sha256 and init_sha256 that text and weights must have, and any field of TrainConfig; or
    config, a file of settings that are taken where there are no others.

    A text, a vocabulary or a model on the hub is fetched where it is missing, of which `progress`
    hears, and several texts are put together in the data folder; nothing else is written. Raises
    ValueError, or OSError, for what cannot be had or does not agree with the run as it was started.
    """
    if "config" in settings:
        own = {name: value for name, value in settings.items() if name != "config"}
        settings = with_file(Path(settings["config"]), own)
    chosen = dict(settings)
    known = {*_NAMES, *(field.name for field in fields(TrainConfig))}
    if unknown := sorted(chosen.keys() - known):
        raise ValueError(f"no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    init, init_hash = chosen.pop("init", None), chosen.pop("init_sha256", None)
    if init == "":
        raise ValueError("`init` is empty; give a run, a folder or a hub id, or leave it out")
    name, shape = chosen.pop("preset", "auto"), chosen.pop("model", None)
    by_default = name == "auto" and not init and not shape
    if by_default:
        name = default_preset(runtime.device)
    model = ModelConfig.from_json(shape) if shape else None
    if model and name != "auto":
        raise ValueError("preset has a shape of its own; leave `model` out")
    if model:
        name = preset_like(model) or CUSTOM
    path = run_path(chosen.pop("run", Path(init).name if init else name))
    if resume and (path / CONFIG).exists():
        return _resumed(path, settings, progress)
    must_be_new(path)
    start = pretrained(init, init_hash) if init else None
    if start:
        model, like = start.config, preset_like(start.config) or CUSTOM
        if name not in ("auto", like):
            raise ValueError(f"{init} has another shape than preset {name}; leave the preset out")
        name, chosen = like, _pretrained_settings(start, chosen) | chosen
    recipe_name, data = chosen.pop("recipe", DEFAULT_RECIPE), chosen.pop("data", None)
    base = preset(name).passage if data is None and name in PRESETS else Passage()
    passage = Passage(
        chosen.pop("first_line", base.first_line), chosen.pop("corpus_tokens", base.tokens)
    )
    chosen.setdefault("dtype", dtype_of(name, runtime.dtype))
    hashes, rehearse = chosen.pop("data_sha256", None), chosen.pop("rehearse", True)
    config = recipe(recipe_name, name if name in PRESETS else None, **chosen)
    model = model or preset(name).model
    old = load_texts(start.folder) if start and start.run and rehearse else []
    new = read_texts(data, passage, progress)
    check_hashes(new, hashes)
    texts = merge_texts(old, new)
    corpus = joined(texts)
    if recipe_name == DEFAULT_RECIPE:
        config = fit_to_text(config, len(corpus.ids), chosen)
    several = tuple(map(LearnedText.of, texts)) if len(texts) > 1 else ()
    return RunPlan(
        path, name, recipe_name, model, config, corpus, start, by_default=by_default,
        texts=several, rehearsed=len(old) if several else 0,
    )  # fmt: skip


def _pretrained_settings(start: Pretrained, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What weights that know something already want instead of a recipe's settings. Raises
    ValueError for positions that they do not have."""
    positions = start.run.train.positions if start.run else PRETRAINED["positions"]
    if chosen.get("positions", positions) != positions:
        raise ValueError(
            f"positions is {chosen['positions']}; the initial weights have {positions} ones"
        )
    if start.run:
        # Ids that the old texts alone have keep rows of their own.
        closed = start.run.train.closed_vocab and chosen.get("rehearse", True)
        own = {"closed_vocab": closed, "zero_residual": False, "first_blocks": 0}
        return own | {"positions": positions}
    return PRETRAINED


def _resumed(path: Path, settings: Mapping[str, Any], progress: Progress | None) -> RunPlan:
    """A run that goes on with the settings that it was started with, but for its length."""
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


def must_fit(plan: RunPlan, runtime: Runtime, ranks: int, free: int) -> None:
    """Raises ValueError where so many ranks of a run, some of them on this machine, take more than
    its `free` bytes."""
    closed = plan.config.closed_vocab
    rows = Vocabulary.of(plan.corpus.ids).rows if closed else plan.model.vocab_size
    share = free // runtime.launch.local_size
    on_cpu = runtime.device == "cpu"
    cost.must_fit(plan.model, plan.config, rows, on_cpu, share, ranks, plan.resumed)


def _lengthened(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A run's configuration with the number of epochs or steps that is asked for, if any."""
    length = {name: settings[name] for name in RUN_LENGTH & settings.keys()}
    if "epochs" in length:
        length.setdefault("steps", 0)  # which would count before epochs
    return replace(config, **length)


_NO_OPTION = {  # settings of a `config` file that no option has
    "model": "a [model] of",
    "data_sha256": "texts whose sha256 are",
    "init_sha256": "weights whose sha256 is",
}


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
        if value != started.get(key, value) and value != "auto":
            what = _NO_OPTION.get(key, f"`{key}`")
            raise ValueError(
                f"run {path.name!r} was started with {what} {started[key]}; resume it "
                "so, or start another `run`"
            )
