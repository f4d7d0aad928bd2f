"""How a training is shown: by a panel in a terminal, by sparse lines in a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..files import as_text
from .common import note, warn_of_last_space
from .ranks import silent

LINES_EVERY = 10  # steps between log lines where there is no terminal
SAMPLES_APART, LOGGED_SAMPLES_APART = 3.0, 60.0  # seconds, where no number of epochs is asked for

Show = Callable[[Any], None]


def sample_options(function: Any) -> Any:
    """The options for samples of what the model says while it learns."""
    every = click.option(
        "--sample-every", type=click.FloatRange(0), metavar="EPOCHS",
        help="Epochs between samples of what the model says, at most 2 % of the time; 0: none. "
        "Default: every few seconds, or every minute in a log.",
    )  # fmt: skip
    prompt = click.option(
        "--sample-prompt", metavar="TEXT", callback=_checked_prompt,
        help="Prompt of the samples. Default: ROMEO:, or the text's first words.",
    )  # fmt: skip
    return every(prompt(function))


def _checked_prompt(_context: Any, _parameter: Any, prompt: str | None) -> str | None:
    if prompt == "":
        raise click.UsageError("--sample-prompt is empty; give some text to go on from")
    return None if prompt is None else as_text(prompt)


@contextmanager
def display(run: Any, sample_every: float | None, prompt: str | None) -> Iterator[Show]:
    """A function that shows each report of a run, on stderr; of several ranks, on the first."""
    if run.trainer.ranks.rank:
        yield silent
        return
    from rich.console import Console

    console = Console(stderr=True)
    state = run.trainer.state
    if state.step < state.total:
        device, once = ("GPU", "") if run.trainer.gpu else ("CPU", ", once: about 15 seconds")
        note(f"The first step compiles MLX's kernels for this {device}{once}.")
    warn_of_last_space(prompt or "")
    encoding = getattr(sys.stderr, "encoding", None) or ""  # which must have blocks and dots
    drawn = console.is_interactive and encoding.lower().startswith("utf")
    shown = _panel if drawn and not os.environ.get("CI") else _lines
    with shown(run, console, sample_every, prompt) as show:
        yield show


@contextmanager
def _panel(
    run: Any, console: Any, sample_every: float | None, prompt: str | None
) -> Iterator[Show]:
    from ..run.progress import RunProgress
    from ..run.samples import Sampler
    from .live import Live
    from .panel import Panel

    progress = RunProgress(run)
    panel = Panel(console, run.path.name, progress)
    sampler = Sampler(run.corpus, prompt, sample_every, SAMPLES_APART)

    def show(report: Any) -> None:
        progress.note(report)
        if sample := sampler.after(report, run.trainer):
            panel.sample = sample
            run.keep_sample(sample)

    with Live(console, panel):
        yield show


@contextmanager
def _lines(
    run: Any, _console: Any, sample_every: float | None, prompt: str | None
) -> Iterator[Show]:
    from ..run import log_lines as text
    from ..run.loss_levels import known
    from ..run.samples import Sampler

    sampler = Sampler(run.corpus, prompt, sample_every, LOGGED_SAMPLES_APART)

    def show(report: Any) -> None:
        if report.step % LINES_EVERY == 0 or report.step == 1 or report.spike:
            note(text.log_line(report))
        if report.evaluation:
            note(text.eval_line(report))
            note(text.known_line(report.step, known(run.trainer.curriculum.losses.nll)))
        if sample := sampler.after(report, run.trainer):
            note(text.sample_line(sample))
            run.keep_sample(sample)

    yield show
