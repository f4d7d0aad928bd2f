"""`train`: follows a run to its end, and says how it ended."""

from __future__ import annotations

import time
from contextlib import closing, suppress
from typing import Any

import click

from ..settings.config import TrainConfig
from ..settings.presets import AUTO, PRESETS, RECIPES
from .common import (
    FilePath,
    Grouped,
    downloads,
    emit,
    json_option,
    note,
    options,
    passage_options,
    prepare,
)
from .display import display, sample_options
from .long import awake, interrupts
from .ranks import joined, silent
from .watch import page_if
from .wording import program

GROUPS = {
    "Model and text": (
        "data", "run", "preset", "recipe", "resume", "first_line", "corpus_tokens", "init",
        "rehearse", "config", "seed",
    ),
    "When it ends and saves": (
        "stop", "target_loss", "finish", "epochs", "steps", "eval_every", "checkpoint_every",
    ),
    "Windows": (
        "batch_size", "context", "short_context", "grow", "jitter", "hard", "edge_weight",
        "edge_below",
    ),
    "Rate and optimiser": (
        "optimizer", "lr", "muon_ratio", "warmup_steps", "follow", "hold", "end_lr", "beta1",
        "beta2", "eps", "weight_decay", "clip",
    ),
    "Parameters": (
        "dtype", "products", "positions", "zero_residual", "logit_gain", "first_blocks", "deepen",
        "closed_vocab",
    ),
}  # fmt: skip


@click.command("train", cls=Grouped, groups=GROUPS)
@click.option(
    "--preset", metavar="NAME",
    help=f"Model and passage: {AUTO}, {', '.join(PRESETS)}.  [default: {AUTO}]",
)  # fmt: skip
@click.option(
    "--recipe", metavar="NAME",
    help=f"Training settings: {', '.join(RECIPES)}.  [default: recite]",
)  # fmt: skip
@click.option(
    "--data", type=FilePath(), multiple=True,
    help="Text to learn, UTF-8, or a folder of .txt files; may be given several times. "
    "Default: Tiny Shakespeare.",
)  # fmt: skip
@passage_options
@click.option(
    "--init", metavar="MODEL",
    help="Start from existing weights: a run's name, a GPT-2's folder, or a hub id like "
    "openai-community/gpt2.",
)  # fmt: skip
@click.option(
    "--rehearse/--no-rehearse", default=None,
    help="With a run as --init: learn its texts again beside the new one, or forget them.",
)  # fmt: skip
@click.option("--run", help="Name of the run's folder in weights/. Default: the preset's.")
@click.option(
    "--resume", is_flag=True,
    help="Continue from the newest intact checkpoint; more --epochs or --steps extend the run.",
)  # fmt: skip
@click.option(
    "--config", type=FilePath(),
    help="Settings from a TOML file, such as the config.toml of a run, which it repeats.",
)  # fmt: skip
@click.option(
    "--checkpoint-every", type=click.IntRange(1), metavar="STEPS",
    help="Steps between checkpoints. Default: one every two minutes.",
)  # fmt: skip
@options(TrainConfig, unset=True)
@click.option(
    "--report-to", type=click.Choice(["tensorboard", "trackio", "wandb"]), multiple=True,
    help="Also send loss, rate and norm to this tracker; may be given several times.",
)  # fmt: skip
@click.option("--watch", is_flag=True, help="Show a page in the browser that follows the run.")
@click.option(
    "--rank-timeout", type=click.FloatRange(1), default=300.0, show_default=True,
    metavar="SECONDS", help="Under mlx.launch: how long a rank waits for the others.",
)  # fmt: skip
@sample_options
@json_option
def command(
    as_json: bool, resume: bool, checkpoint_every: int | None, report_to: tuple[str, ...],
    watch: bool, rank_timeout: float, sample_every: float | None, sample_prompt: str | None,
    **values: Any,
) -> int:  # fmt: skip
    """Trains until the text is known by heart; exits 1 if it ends first.

    What no option sets comes from the recipe; the model's shape comes from the preset, or from
    [model] in --config.

    Under mlx.launch or mpirun, every rank computes its share of each batch.
    """
    started = time.perf_counter()
    runtime = prepare()
    from ..run import open_together
    from ..run.trackers import must_have, open_sinks

    must_have(report_to)

    settings = {name: value for name, value in values.items() if value not in (None, ())}
    if len(values["data"]) == 1:
        settings["data"] = values["data"][0]
    with joined(runtime, rank_timeout) as ranks:
        first = ranks.rank == 0
        tell = note if first else silent
        if ranks.size > 1:
            tell(f"Training on {ranks.size} ranks, through {runtime.launch.backend}.")
        with downloads() as progress:
            run = open_together(runtime, settings, resume, tell, progress, ranks)
        try:
            step, config = run.trainer.state.step, run.trainer.config.to_json()
            kinds = report_to if first else ()
            sinks = open_sinks(kinds, run.path, f"{run.path.name}-{run.id}", config, step, tell)
            shown = display(run, sample_every, sample_prompt)
            page = page_if(watch and first, run.path, tell)
            with awake(), interrupts(run, tell), page, shown as show, closing(sinks):
                for report in run.train(checkpoint_every or 0, tell):
                    sinks.log(report)
                    with suppress(OSError):  # a reader that left must not end the training
                        show(report)
            if not first:
                return 0
            seconds = time.perf_counter() - started
            return _outcome(run, seconds, as_json)
        finally:
            run.close()


def _outcome(run: Any, seconds: float, as_json: bool) -> int:
    """Prints how the run stands; returns the exit code."""
    state, config = run.trainer.state, run.trainer.config
    last = state.evaluations[-1] if state.evaluations else {"nll": None, "complete": False}
    nll = last["nll"]
    over = state.step == state.total
    result = {
        "run": run.path.name,
        "step": state.step,
        "tokens": state.step * config.tokens_per_step,
        "seconds": round(seconds, 1),
        "reached": over and state.reached,
        "nll": nll,
        "complete": last["complete"],
        "target": config.target_loss,
        "extracted": last.get("extracted"),
        "known": state.known,
        "folder": str(run.path),
    }
    name = f"run {run.path.name!r} after {state.step} steps ({result['tokens']:,} tokens)"
    if not over:
        way = f"{program()} train --resume --run {run.path.name}"
        emit(as_json, result, f"Stopped {name}; go on with: {way}")
        return 130  # only an interrupt, of any rank, ends a run before its last step
    about = "" if last["complete"] else "about "
    loss = f"whole-text loss {about}{nll:.4f}, target {config.target_loss:g}"
    if state.reached:
        how = "Known by heart" if state.known else "Target reached"
        emit(as_json, result, f"{how}: {name}, {loss}.")
        return 0
    more = f"--steps {2 * config.steps}" if config.steps else f"--epochs {1.5 * config.epochs:g}"
    way = f"go on with: {program()} train --resume --run {run.path.name} {more}"
    if config.stop == "batch" and state.recent[-1] < config.target_loss:
        way = f"its last batch's was {state.recent[-1]:.4f}, which proves nothing"
    if "extracted" in last:
        loss += f", {last['extracted']:.1%} of a sample of places recited"
    missed = "Not yet known by heart" if config.stop == "known" else "Target not reached"
    emit(as_json, result, f"{missed}: {name}, {loss}; {way}.")
    return 1
