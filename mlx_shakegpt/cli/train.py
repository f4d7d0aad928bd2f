"""`train`: draws what the run reports, and says how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import click

from ..settings.config import TrainConfig
from ..settings.presets import PRESETS, RECIPES
from .common import Grouped, downloads, emit, json_option, note, options, prepare
from .long import awake, interrupts
from .ranks import joined, silent
from .wording import program

LINES_EVERY = 10  # steps between log lines where there is no terminal

GROUPS = {
    "Model and text": (
        "preset", "recipe", "data", "first_line", "corpus_tokens", "init", "run", "resume", "seed",
    ),
    "When it ends and saves": (
        "stop", "target_loss", "finish", "epochs", "steps", "eval_every", "checkpoint_every",
    ),
    "Windows": ("batch_size", "context", "short_context", "grow", "jitter", "hard"),
    "Rate and optimiser": (
        "optimizer", "lr", "warmup_steps", "follow", "hold", "end_lr", "beta1", "beta2", "eps",
        "weight_decay", "clip",
    ),
    "Parameters": ("dtype", "positions", "zero_residual", "closed_vocab"),
}  # fmt: skip


@click.command("train", cls=Grouped, groups=GROUPS)
@click.option(
    "--preset", metavar="NAME",
    help=f"Model and passage: auto, {', '.join(PRESETS)}.  [default: auto]",
)  # fmt: skip
@click.option(
    "--recipe", metavar="NAME",
    help=f"Training settings: {', '.join(RECIPES)}.  [default: recite]",
)  # fmt: skip
@click.option("--data", type=click.Path(), help="Text to learn, UTF-8; else Tiny Shakespeare.")
@click.option("--first-line", type=int, help="First line of the passage, from 1.")
@click.option("--corpus-tokens", type=int, help="Tokens of the passage; 0: to the end.")
@click.option(
    "--init", metavar="MODEL",
    help="Begin with a GPT-2's weights: a folder, or a hub id like openai-community/gpt2.",
)  # fmt: skip
@click.option("--run", help="Name of the run's folder in weights/; else the preset's.")
@click.option(
    "--resume", is_flag=True,
    help="Go on from the newest sound checkpoint; with more --epochs or --steps, further.",
)  # fmt: skip
@click.option(
    "--checkpoint-every", type=click.IntRange(1), metavar="STEPS",
    help="Steps between checkpoints; else one every two minutes.",
)  # fmt: skip
@options(TrainConfig, unset=True)
@click.option(
    "--report-to", type=click.Choice(["tensorboard", "wandb"]), multiple=True,
    help="Where loss, rate and norm also go; may be given twice.",
)  # fmt: skip
@click.option(
    "--rank-timeout", type=click.FloatRange(1), default=300.0, show_default=True,
    metavar="SECONDS", help="Under mlx.launch: how long a rank waits for the others.",
)  # fmt: skip
@json_option
def command(
    as_json: bool, resume: bool, checkpoint_every: int | None, report_to: tuple[str, ...],
    rank_timeout: float, **values: Any,
) -> int:  # fmt: skip
    """Trains until the text is known by heart; exits 1 if it ends before.

    Under mlx.launch or mpirun, every rank computes its share of each batch.
    """
    started = time.perf_counter()
    runtime = prepare()
    from ..run import open_together
    from ..run.trackers import must_have, open_sinks

    must_have(report_to)

    settings = {name: value for name, value in values.items() if value is not None}
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
            with awake(), interrupts(run, tell), _display(run) as show, closing(sinks):
                for report in run.follow(checkpoint_every or 0, tell):
                    sinks.log(report)
                    with suppress(OSError):  # a reader that left must not end the training
                        show(report)
            if not first:
                return 0
            seconds = time.perf_counter() - started
            return _outcome(run, seconds, as_json)
        finally:
            run.close()


@contextmanager
def _display(run: Any) -> Iterator[Any]:
    """A function that shows each report: a progress bar in a terminal, log lines elsewhere."""
    from rich.console import Console

    from ..run import log_lines as text

    if run.trainer.ranks.rank:
        yield silent
        return
    console = Console(stderr=True)
    state = run.trainer.state
    if state.step < state.total:
        device, once = ("GPU", "") if run.trainer.gpu else ("CPU", ", once: about 15 seconds")
        note(f"The first step compiles MLX's kernels for this {device}{once}.")
    if not console.is_terminal or os.environ.get("CI"):

        def show(report: Any) -> None:
            if report.step % LINES_EVERY == 0 or report.step == 1 or report.spike:
                note(text.log_line(report))
            if report.evaluation:
                note(text.eval_line(report))

        yield show
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(None),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, expand=True) as progress:
        task = progress.add_task("", total=state.total, completed=state.step)
        pace = text.Pace()

        def draw(report: Any) -> None:
            state = run.trainer.state  # another one where the run has gone back
            target = run.trainer.config.target_loss
            progress.update(
                task,
                completed=report.step,
                total=state.total,
                description=text.status(report, state, target, pace.after(report)),
            )
            if report.evaluation:
                progress.console.print(text.eval_line(report), highlight=False)

        yield draw


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
    emit(as_json, result, f"Target not reached: {name}, {loss}; {way}.")
    return 1
