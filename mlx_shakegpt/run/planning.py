"""From what was asked for by name to the plan of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..runtime import Runtime
from ..settings.config import ModelConfig, Passage, TrainConfig
from ..settings.presets import (
    AUTO,
    DEFAULT_RECIPE,
    PRESETS,
    default_preset,
    dtype_of,
    fit_to_text,
    preset,
    preset_like,
    recipe,
)
from ..text.collection import joined
from ..text.corpus import Corpus
from .config_file import CONFIG, LearnedText
from .folder import load_texts
from .names import must_be_new, run_path
from .plan import RunPlan
from .pretrained import Pretrained, pretrained
from .resuming import resumed_plan
from .settings_file import with_file
from .texts import Progress, check_hashes, merge_texts, read_texts

_TEXT = ("data", "data_sha256", "first_line", "corpus_tokens", "rehearse")
_NAMES = ("preset", "recipe", "run", "init", "init_sha256", "config", "model", *_TEXT)
# What weights that know how to attend want instead; `lr` is about GPT-2's own.
PRETRAINED = {"closed_vocab": False, "positions": "learned", "zero_residual": False}
PRETRAINED |= {"first_blocks": 0, "optimizer": "adamw", "lr": 1e-4}
CUSTOM = "custom"  # the preset of a model that has the shape of none


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
    chosen = _known(settings)
    init, init_hash = chosen.pop("init", None), chosen.pop("init_sha256", None)
    name, model = _preset_and_shape(chosen)
    by_default = name == AUTO and not init
    if by_default:
        name = default_preset(runtime.device)
    path = run_path(chosen.pop("run", Path(init).name if init else name))
    if resume and (path / CONFIG).exists():
        return resumed_plan(path, settings, progress)
    must_be_new(path)
    start = pretrained(init, init_hash) if init else None
    if start:
        model, like = start.config, preset_like(start.config) or CUSTOM
        if name not in (AUTO, like):
            raise ValueError(f"{init} has another shape than preset {name}; leave the preset out")
        name, chosen = like, _pretrained_settings(start, chosen) | chosen
    about_text = {key: chosen.pop(key) for key in _TEXT if key in chosen}
    recipe_name = chosen.pop("recipe", DEFAULT_RECIPE)
    chosen.setdefault("dtype", dtype_of(name, runtime.dtype))
    config = recipe(recipe_name, name if name in PRESETS else None, **chosen)
    old, new = _old_and_new_texts(about_text, name, start, progress)
    texts = merge_texts(old, new)
    corpus = joined(texts)
    if recipe_name == DEFAULT_RECIPE:
        config = fit_to_text(config, len(corpus.ids), chosen)
    several = tuple(map(LearnedText.of, texts)) if len(texts) > 1 else ()
    return RunPlan(
        path, name, recipe_name, model or preset(name).model, config, corpus, start,
        by_default=by_default, texts=several, rehearsed=len(old) if several else 0,
    )  # fmt: skip


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings. Raises ValueError for one that there is not, or an empty one."""
    known = {*_NAMES, *(field.name for field in fields(TrainConfig))}
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if settings.get("init") == "":
        raise ValueError("`init` is empty; give a run, a folder or a hub id, or leave it out")
    return dict(settings)


def _preset_and_shape(chosen: dict[str, Any]) -> tuple[str, ModelConfig | None]:
    """The preset that is asked for, and the shape where one was given instead; takes both out of
    what was `chosen`. Raises ValueError for both at once."""
    name, shape = chosen.pop("preset", AUTO), chosen.pop("model", None)
    if not shape:
        return name, None
    if name != AUTO:
        raise ValueError("preset has a shape of its own; leave `model` out")
    model = ModelConfig.from_json(shape)
    return preset_like(model) or CUSTOM, model


def _old_and_new_texts(
    about: Mapping[str, Any], name: str, start: Pretrained | None, progress: Progress | None
) -> tuple[list[Corpus], list[Corpus]]:
    """The texts that the initial weights' run learned, as far as they are to be rehearsed, and
    those to learn. Raises ValueError where these are not the ones asked for."""
    data = about.get("data")
    base = preset(name).passage if data is None and name in PRESETS else Passage()
    passage = Passage(
        about.get("first_line", base.first_line), about.get("corpus_tokens", base.tokens)
    )
    rehearse = about.get("rehearse", True)
    old = load_texts(start.folder) if start and start.run and rehearse else []
    new = read_texts(data, passage, progress)
    check_hashes(new, about.get("data_sha256"))
    return old, new


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
