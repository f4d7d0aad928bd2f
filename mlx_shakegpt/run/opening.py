"""Opens a run, new or again, from what was asked for by name.

Knows nothing of terminals: what there is to say goes to a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..runtime import Runtime, free_bytes, matmul_gflops
from ..runtime.ranks import ALONE, Ranks
from ..settings.config import LENGTH, ModelConfig, Passage, TrainConfig
from ..settings.presets import DEFAULT_RECIPE, PRESETS, fit_to_text, preset, preset_like, recipe
from ..text import assets
from ..text.corpus import Corpus
from ..text.vocabulary import Vocabulary
from ..training import cost
from ..verification.evidence import CERTIFICATE
from .folder import CONFIG, must_be_new, read_config, run_path
from .pretrained import pretrained
from .session import Run

_NAMES = ("preset", "recipe", "run", "data", "first_line", "corpus_tokens", "init")
# What weights that know how to attend want instead; `lr` is about GPT-2's own.
PRETRAINED = {"closed_vocab": False, "positions": "learned", "zero_residual": False}
PRETRAINED |= {"optimizer": "adamw", "lr": 1e-4}
# Settings that hardly change how long a run takes.
_ANY = ("dtype", "seed", "closed_vocab", "epochs", "steps", "eval_every")
CUSTOM = "custom"  # the preset of a model that has the shape of none

Tell = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def open_run(
    runtime: Runtime,
    settings: Mapping[str, Any],
    resume: bool = False,
    tell: Tell = lambda line: None,
    progress: Progress | None = None,
    ranks: Ranks = ALONE,
    agree: Callable[[Run], None] = lambda run: None,
) -> Run:
    """The run to follow: new, or with `resume` the one of that name, if it exists. Before anything
    of it is written, `agree` may refuse it by a ValueError; `ranks` are to share its work.

    `settings` may have preset, recipe, run (a name), data (a path), first_line, corpus_tokens, init
    (a folder or hub id) and any field of TrainConfig. Raises ValueError, or OSError, for what
    cannot be had or does not agree with the run as it was started.
    """
    chosen = dict(settings)
    known = {*_NAMES, *(field.name for field in fields(TrainConfig))}
    if unknown := sorted(chosen.keys() - known):
        raise ValueError(f"no setting {unknown[0]!r}; there are {', '.join(sorted(known))}")
    init, name = chosen.pop("init", None), chosen.pop("preset", "auto")
    default = name == "auto" and not init
    if default:
        name = "gpt2-124m" if runtime.device == "gpu" else "quick"
    path = run_path(chosen.pop("run", Path(init).name if init else name))
    if resume and (path / CONFIG).exists():
        return _resumed(runtime, path, settings, tell, progress, ranks, agree)
    must_be_new(path)
    if default:
        tell(f"Preset {name}, the default on a {runtime.device.upper()}.")
    start = pretrained(init) if init else None
    if start:
        shape = preset_like(start.model.config) or CUSTOM
        if name not in ("auto", shape):
            raise ValueError(f"{init} has another shape than preset {name}; leave the preset out")
        name = shape
        tell(f"Beginning with {start.source}, {start.model.config.n_parameters:,} parameters.")
        chosen = PRETRAINED | chosen
    recipe_name, data = chosen.pop("recipe", DEFAULT_RECIPE), chosen.pop("data", None)
    base = preset(name).passage if data is None and name in PRESETS else Passage()
    passage = Passage(
        chosen.pop("first_line", base.first_line), chosen.pop("corpus_tokens", base.tokens)
    )
    chosen.setdefault("dtype", runtime.dtype)
    config = recipe(recipe_name, name if name in PRESETS else None, **chosen)
    model = start.model.config if start else preset(name).model
    corpus = read_corpus(data, passage, progress)
    if recipe_name == DEFAULT_RECIPE:
        config = fit_to_text(config, len(corpus.ids), chosen)
    must_fit(runtime, model, config, corpus, ranks, free_bytes())
    names = {"preset": name, "recipe": recipe_name}
    run = Run(path, model, config, corpus, names, start, ranks)
    agree(run)
    run.create(runtime)
    tell(f"Learning {len(corpus.ids):,} tokens of {corpus.name} in {path}: {_plan(run, runtime)}.")
    return run


def _plan(run: Run, runtime: Runtime) -> str:
    """What is to be expected of a run: that of the default recipe, where nothing else was asked
    for, and the most that it may take."""
    config, total = run.trainer.config, run.trainer.state.total
    most = f"at most {total:,} steps of {config.tokens_per_step:,} tokens"
    tokens, model = len(run.corpus.ids), run.trainer.model.config
    usual = fit_to_text(recipe(DEFAULT_RECIPE, preset_like(model)), tokens, {})
    free = {name: getattr(config, name) for name in _ANY}
    if run.start is not None or replace(usual, **free) != config:
        return most
    epochs = cost.expected_epochs(tokens)
    steps = min(total, math.ceil(epochs * tokens / config.tokens_per_step))
    gflops = matmul_gflops(dtype=getattr(mx, config.dtype)) * cost.OF_PEAK[runtime.device]
    rows = run.trainer.model.wte.weight.shape[0]
    seconds = steps * cost.step(model, config, gflops, rows, runtime.device == "cpu").seconds
    minutes = f"{seconds / 60:,.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"
    return f"some {steps:,} steps ({epochs:.0f} epochs), about {minutes} here; {most}"


def _resumed(
    runtime: Runtime,
    path: Path,
    settings: Mapping[str, Any],
    tell: Tell,
    progress: Progress | None,
    ranks: Ranks,
    agree: Callable[[Run], None],
) -> Run:
    """A run that goes on with the settings that it was started with, but for its length."""
    saved = read_config(path)
    config = _lengthened(saved["train"], settings)
    data, passage = settings.get("data") or saved["corpus"]["path"], saved["passage"]
    if settings.get("corpus_tokens") == 0:
        whole = read_corpus(data, replace(passage, tokens=0), progress)
        settings = {**settings, "corpus_tokens": len(whole.ids)}
    _must_agree(path, saved | {"train": config}, settings)
    corpus = read_corpus(data, passage, progress)
    must_fit(runtime, saved["model"], config, corpus, ranks, free_bytes(), resumed=True)
    start, init = None, saved["init"]
    if init and not any((path / "checkpoints").glob("[0-9]*")):  # which hold all that is left of it
        start = pretrained(init["source"], init["sha256"])
    names = {"preset": saved["preset"], "recipe": saved["recipe"]}
    run = Run(path, saved["model"], config, corpus, names, start, ranks)
    agree(run)
    for problem in run.resume():
        tell(f"Warning: {problem}.")
    state = run.trainer.state
    tell(f"Resuming {path.name} after step {state.step} of {state.total} at most.")
    if (path / CERTIFICATE).exists() and state.step < state.total:
        tell("Its certificate and map will be kept under other names once its weights change.")
    return run


def read_corpus(data: str | None, passage: Passage, progress: Progress | None) -> Corpus:
    """A passage of a text, or of Tiny Shakespeare. Raises ValueError or OSError as both may."""
    if not data:
        assets.ensure(assets.TINY_SHAKESPEARE, progress)
    return Corpus.load(Path(data) if data else None, passage)


def must_fit(
    runtime: Runtime,
    model: ModelConfig,
    config: TrainConfig,
    corpus: Corpus,
    ranks: Ranks,
    free: int,
    resumed: bool = False,
) -> None:
    """Raises ValueError where the ranks of this machine take more than its `free` bytes."""
    rows = Vocabulary.of(corpus.ids).rows if config.closed_vocab else model.vocab_size
    share = free // runtime.launch.local_size
    cost.must_fit(model, config, rows, runtime.device == "cpu", share, ranks.size, resumed)


def _lengthened(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """A run's configuration with the number of epochs or steps that is asked for, if any."""
    length = {name: settings[name] for name in LENGTH & settings.keys()}
    if length.get("epochs", config.epochs) != config.epochs:
        length.setdefault("steps", 0)  # which would count before epochs
    return replace(config, **length)


def _must_agree(path: Path, saved: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ValueError where an option contradicts what a run was started with."""
    init = (saved["init"] or {}).get("source", "none")
    started = asdict(saved["train"]) | {
        "preset": saved["preset"],
        "recipe": saved["recipe"],
        "init": init,
        "first_line": saved["passage"].first_line,
        "corpus_tokens": saved["passage"].tokens,
    }
    if "init" in settings and (folder := Path(settings["init"]).expanduser()).is_dir():
        settings = {**settings, "init": str(folder.resolve())}
    for key, value in settings.items():
        if value != started.get(key, value) and value != "auto":
            raise ValueError(
                f"run {path.name!r} was started with `{key}` {started[key]}; resume it "
                "so, or start another `run`"
            )
