"""Begins a run that was planned, or goes on with it.

Knows nothing of terminals: what there is to say goes to a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx

from ..runtime import Runtime, free_bytes, matmul_gflops, products_of
from ..settings.presets import DEFAULT_RECIPE, fit_to_text, preset_like, recipe
from ..training import cost
from ..verification.evidence import CERTIFICATE
from .log_lines import duration
from .plan import RunPlan, must_fit
from .planning import plan_run
from .session import Run
from .texts import Progress

# Settings that hardly change how long a run takes.
_ANY = ("dtype", "products", "seed", "closed_vocab", "epochs", "steps", "eval_every")

Tell = Callable[[str], None]


def open_run(
    runtime: Runtime,
    settings: Mapping[str, Any],
    resume: bool = False,
    tell: Tell = lambda line: None,
    progress: Progress | None = None,
) -> Run:
    """The run to follow: new, or with `resume` the one of that name, if it exists.

    `settings` and errors are those of `plan_run`.
    """
    plan = checked_plan(runtime, settings, resume, tell, progress)
    return begin(Run(plan), runtime, tell)


def checked_plan(
    runtime: Runtime,
    settings: Mapping[str, Any],
    resume: bool,
    tell: Tell,
    progress: Progress | None,
    ranks: int = 1,
) -> RunPlan:
    """What `plan_run` gives. Raises ValueError where this machine's memory is too small for it."""
    plan = plan_run(runtime, settings, resume, progress)
    if plan.by_default and not plan.resumed:
        tell(f"Preset {plan.preset}, the default on a {runtime.device.upper()}.")
    if plan.start and not plan.resumed:
        source = plan.start.record.source
        again = f", learning {_count(plan.rehearsed, 'text')} of it again" if plan.rehearsed else ""
        tell(f"Beginning with {source}, {plan.model.n_parameters:,} parameters{again}.")
    must_fit(plan, runtime, ranks, free_bytes())
    return plan


def begin(run: Run, runtime: Runtime, tell: Tell) -> Run:
    """Makes a run's folder, or goes to its newest checkpoint. Raises ValueError or OSError as
    Run.create and Run.resume do."""
    plan = run.plan
    if not plan.resumed:
        run.create(runtime)
        text = f"{len(plan.corpus.ids):,} tokens of {_names(plan)}"
        tell(f"Learning {text} in {plan.path}: {_expectation(run, runtime)}.")
        return run
    for problem in run.resume():
        tell(f"Warning: {problem}.")
    state = run.trainer.state
    tell(f"Resuming {plan.path.name} after step {state.step} of {state.total} at most.")
    if (plan.path / CERTIFICATE).exists() and state.step < state.total:
        tell("Its certificate and map will be kept under other names once its weights change.")
    return run


def _names(plan: RunPlan) -> str:
    """The names of a run's texts, or how many they are."""
    names = [text.name for text in plan.texts] or [plan.corpus.name]
    return " and ".join(names) if len(names) < 3 else f"{len(names)} texts"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _expectation(run: Run, runtime: Runtime) -> str:
    """What is to be expected of a run: that of the default recipe, where nothing else was asked
    for, and the most that it may take."""
    plan, total = run.plan, run.trainer.state.total
    config, model, tokens = plan.config, plan.model, len(plan.corpus.ids)
    most = f"at most {total:,} steps of {config.tokens_per_step:,} tokens"
    usual = fit_to_text(recipe(DEFAULT_RECIPE, preset_like(model)), tokens, {})
    free = {name: getattr(config, name) for name in _ANY}
    if plan.start is not None or replace(usual, **free) != config:
        return most
    epochs = cost.expected_epochs(tokens)
    steps = min(total, math.ceil(epochs * tokens / config.tokens_per_step))
    epochs = min(epochs, steps * config.tokens_per_step / tokens)
    with products_of(config.products):
        # Muon's products are float32, whatever the weights are.
        speeds = {
            dtype: matmul_gflops(dtype=getattr(mx, dtype)) * cost.OF_PEAK[runtime.device]
            for dtype in {config.dtype, "float32"}
        }
    own, update = speeds[config.dtype], speeds["float32"]
    rows = run.trainer.model.wte.weight.shape[0]
    on_cpu = runtime.device == "cpu"
    a_step = cost.step(model, config, own, rows, on_cpu, update).seconds
    if config.first_blocks:
        shallow = replace(model, n_layer=min(config.first_blocks, model.n_layer))
        first = cost.step(shallow, config, own, rows, on_cpu, update).seconds
        a_step += cost.SHALLOW * (first - a_step)
    length = f"some {steps:,} steps ({epochs:.0f} epochs)"
    return f"{length}, about {duration(steps * a_step)} here; {most}"
