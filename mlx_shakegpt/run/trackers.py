"""Where a run's reports may also go: TensorBoard, trackio, Weights & Biases, or whatever has two
methods.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from ..files import PROJECT
from ..training import StepReport

PACKAGES = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb"}
NUMBERS = ("loss", "lr", "norm", "epoch", "tokens_per_second")


class Sink(Protocol):
    """Takes the reports of a run, in order."""

    def log(self, report: StepReport) -> None: ...

    def close(self) -> None: ...


def numbers(report: StepReport) -> dict[str, float]:
    """What a sink is told of a step, by the names that its charts have."""
    values = {f"train/{name}": float(getattr(report, name)) for name in NUMBERS}
    if result := report.evaluation:
        values |= {"eval/nll": result.nll, "eval/accuracy": result.accuracy}
    return values


class TensorBoard:
    """Event files in `folder`; what an earlier start wrote after `step` no longer shows."""

    def __init__(self, folder: Path, id: str, config: Mapping[str, Any], step: int) -> None:
        writer = _module(PACKAGES["tensorboard"]).SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=step + 1)

    def log(self, report: StepReport) -> None:
        for name, value in numbers(report).items():
            self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, id: str, config: Mapping[str, Any], step: int) -> None:
        self._run = _module(PACKAGES["wandb"]).init(
            project=PROJECT, name=folder.name, id=id, resume="allow", dir=str(folder),
            config=dict(config),
        )  # fmt: skip

    def log(self, report: StepReport) -> None:
        self._run.log(numbers(report), step=report.step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, kept on this machine in TRACKIO_DIR, or else in Hugging Face's cache; where
    TRACKIO_SPACE_ID names a Space, there."""

    def __init__(self, folder: Path, id: str, config: Mapping[str, Any], step: int) -> None:
        self._trackio = _module(PACKAGES["trackio"])
        with redirect_stdout(sys.stderr):  # what it prints is no result
            self._run = self._trackio.init(
                project=PROJECT, name=id, resume="allow", config=dict(config), embed=False,
                auto_log_cpu=False, auto_log_gpu=False,
            )  # fmt: skip

    def log(self, report: StepReport) -> None:
        self._run.log(numbers(report), step=report.step)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()  # the run's own would be called once more, at exit


class Sinks:
    """Several as one. One that fails is dropped and told of: no chart is worth a training."""

    def __init__(self, sinks: Sequence[Sink], tell: Callable[[str], None]) -> None:
        self._sinks, self._tell = list(sinks), tell

    def log(self, report: StepReport) -> None:
        self._each(lambda sink: sink.log(report))

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, do: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                do(sink)
            except Exception as error:
                self._sinks.remove(sink)
                name = type(sink).__name__
                self._tell(f"Warning: {name} failed ({error}); training goes on without it.")


KINDS: dict[str, Callable[[Path, str, Mapping[str, Any], int], Sink]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WandB,
}


def must_have(kinds: Sequence[str]) -> None:
    """Raises ImportError for a kind whose package is not installed."""
    for kind in kinds:
        _module(PACKAGES[kind])


def open_sinks(
    kinds: Sequence[str],
    folder: Path,
    id: str,
    config: Mapping[str, Any],
    step: int,
    tell: Callable[[str], None],
) -> Sinks:
    """Sinks of some kinds for the run in `folder`, which goes on after `step`; `id` tells it from
    others of its name. Raises ImportError for a kind whose package is not installed."""
    return Sinks([KINDS[kind](folder, id, config, step) for kind in kinds], tell)


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(
            f"{name} is not installed; install it with: pip install 'mlx-shakegpt[reports]'"
        ) from None
