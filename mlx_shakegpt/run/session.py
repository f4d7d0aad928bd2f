"""A run's folder: its settings, logs, checkpoints and final weights, kept in step with the trainer.

Knows nothing of terminals; whoever iterates `Run.follow` draws the progress.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from .. import assets, checkpoint, report
from ..config import ModelConfig, TrainConfig
from ..corpus import Corpus
from ..files import read_json, sync, write_atomically
from ..memory.evidence import set_aside_unless_of
from ..memory.known import extracted
from ..memory.nll import whole_text_nll
from ..model import GPT
from ..pictures import loss_curve
from ..ranks import ALONE, Ranks
from ..runtime import Runtime, versions
from ..tensors import save_tensors
from ..training import Evaluation, StepReport, Trainer
from .folder import CONFIG, CURVE, LOG, METRICS, must_be_new, read_config
from .pretrained import Pretrained

SECONDS_BETWEEN_CHECKPOINTS, SECONDS_BETWEEN_BEST = 120, 30
ESTIMATED = 16_384  # tokens that tell how far a long text is from being known


def trainer_of(
    model: ModelConfig, config: TrainConfig, corpus: Corpus, start: GPT | None, ranks: Ranks
) -> Trainer:
    """A trainer that is evaluated by the whole text's loss, and where it is to stop when the text
    is known, by a sample of extractions too. Raises ValueError as Trainer does."""

    def evaluate(gpt: GPT, context: int) -> Evaluation:
        target, vocabulary = config.target_loss, trainer.vocabulary
        whole = partial(whole_text_nll, gpt, corpus.ids, context, vocabulary, target, ranks)
        if config.stop != "known":
            return whole()
        # The whole of a long text is only scored where all else says that it is known.
        result = whole(ESTIMATED)
        if result.nll >= target or context < config.context:
            return result
        mine = extracted(gpt, corpus.ids, context, vocabulary, trainer.state.step)
        share, known = ranks.gather(mine)[0]  # machines of several kinds may round apart
        return replace(whole() if known else result, extracted=share, known=known)

    trainer = Trainer(model, config, corpus.ids, evaluate, start, ranks)
    return trainer


def _appended(log: Path) -> TextIO:
    return open(log, "a", encoding="utf-8")


def _cut(log: Path, size: int) -> bool:
    """Cuts a log to its size at a checkpoint; or, where it is shorter, to whole lines."""
    held = log.stat().st_size if log.exists() else 0
    if held > size:
        os.truncate(log, size)
    elif held < size and held:
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
    return held >= size


class Run:
    """One training run in its folder, which is locked until `close`."""

    def __init__(
        self,
        path: Path,
        model: ModelConfig,
        config: TrainConfig,
        corpus: Corpus,
        names: dict[str, str],
        start: Pretrained | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """`names` are the preset's and the recipe's, for the record. Training begins with the
        weights of `start`, or random ones; `ranks` share the work, of which the first has the
        folder. Raises ValueError as Trainer does."""
        self.path, self.corpus = path, corpus
        self.id = secrets.token_hex(4)  # tells it from others of its name, wherever it reports to
        self._stack = ExitStack()
        self._model, self._config = model, config
        self._told = names | ({"init": start.told} if start else {})
        self.trainer = trainer_of(model, config, corpus, start.model if start else None, ranks)

    def create(self, runtime: Runtime) -> None:
        """Makes the folder. Raises ValueError where the run exists."""
        with self._locked():
            must_be_new(self.path)
            self._write_config(
                {
                    "id": self.id,
                    **self._told,
                    "model": self._model.to_json(),
                    "train": self._config.to_json(),
                    "corpus": self._text,
                    "tokenizer": {"name": "gpt2", "sha256": assets.GPT2_MERGES.sha256},
                    "versions": versions(),
                    "device": runtime.device,
                    "dtype": self._config.dtype,
                    "seed": self._config.seed,
                }
            )

    def resume(self) -> list[str]:
        """Goes back to the newest sound checkpoint, or the start; cuts the logs to match. Where the
        run has more steps than config.json says, or its text has moved, it is written anew.

        Returns what is wrong with newer checkpoints or the logs. Raises ValueError where
        checkpoints exist and none is sound, or the run is of another text or configuration.
        """
        with self._locked():
            saved = read_config(self.path)
            self.id = saved.get("id", self.id)
            if saved["corpus"]["sha256"] != self.corpus.sha256:
                raise ValueError(
                    f"run {self.path.name!r} learns another text ({saved['corpus']['name']}); "
                    "resume with the text it was started with"
                )
            newest, damaged = self._newest()
            checkpoint.set_aside(self.path / "checkpoints", newest)
            sizes = checkpoint.restore(newest, self.trainer)["logs"] if newest else {}
            self._note_changes(saved)
            problems = [f"{problem}; going back to the one before" for problem in damaged]
            for log in (self.path / METRICS, self.path / LOG):
                if not _cut(log, sizes.get(log.name, 0)):
                    problems.append(
                        f"{log} lacks lines, which no step depends on; going on without"
                    )
            return problems

    def _newest(self) -> tuple[Path | None, list[str]]:
        """The newest sound checkpoint, None for a run that has none yet, and what is wrong with
        newer ones. Raises ValueError where all are damaged or gone."""
        newest, damaged = checkpoint.newest(self.path / "checkpoints")
        if newest is None and damaged:
            raise ValueError(f"no sound checkpoint is left: {damaged[0]}; start anew with --run")
        if newest is None and (self.path / checkpoint.MODEL).exists():
            raise ValueError(
                f"run {self.path.name!r} is over and its checkpoints are gone; "
                "start another with --run"
            )
        return newest, damaged

    @property
    def _text(self) -> dict[str, Any]:
        """What config.json says of the text."""
        return self.corpus.told | {"path": self.corpus.path}

    def _note_changes(self, saved: dict[str, Any]) -> None:
        """Writes down where the text is now, and a longer plan with what it was before."""
        before = saved["train"]
        changes: dict[str, Any] = {}
        if saved["corpus"]["path"] != self.corpus.path:
            changes["corpus"] = self._text
        if before != self._config:
            length = {"step": self.trainer.state.step, "epochs": before.epochs}
            length["steps"] = before.steps
            changes["lengthened"] = [*saved.get("lengthened", []), length]
            changes["train"] = self._config.to_json()
        if changes:
            self._write_config(read_json(self.path / CONFIG) | changes)

    def _write_config(self, content: dict[str, Any]) -> None:
        write_atomically(self.path / CONFIG, json.dumps(content, indent=1) + "\n")

    def follow(self, every: int = 0) -> Iterator[StepReport]:
        """Trains; after each report the logs, and where one is due the checkpoint, are on disk.

        `every` is the number of steps between checkpoints; 0: one every two minutes. When the
        iteration ends, the state is saved, and the final weights if the run is over.
        """
        trainer = self.trainer
        saved_at = time.monotonic()
        saved_step = trainer.state.step

        def due(step: int) -> bool:
            if every:
                return step % every == 0
            return time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS

        with _appended(self.path / METRICS) as jsonl, _appended(self.path / LOG) as log:
            for step in trainer.run(settle=due):
                jsonl.writelines(line + "\n" for line in report.metrics(step))
                log.write(report.log_line(step) + "\n")
                if step.evaluation:
                    log.write(report.eval_line(step) + "\n")
                jsonl.flush()
                log.flush()
                if step.settled and (due(step.step) or self._improved(step, saved_at)):
                    self._save()
                    saved_at, saved_step = time.monotonic(), step.step
                yield step
        if trainer.state.step != saved_step:
            self._save()
        if trainer.state.step == trainer.state.total:
            save_tensors(self.path / checkpoint.MODEL, checkpoint.weights_of(trainer))
            set_aside_unless_of(self.path, self.path / checkpoint.MODEL)
        self.draw()

    def _improved(self, step: StepReport, saved_at: float) -> bool:
        """Whether the text was never known better, and the last checkpoint is not quite fresh."""
        if not step.evaluation or time.monotonic() - saved_at < SECONDS_BETWEEN_BEST:
            return False
        return step.evaluation.nll <= min(e["nll"] for e in self.trainer.state.evaluations)

    def draw(self) -> None:
        """Draws loss.png, where there is something to draw."""
        if self.trainer.state.step:
            curves = {self.path.name: self.path / METRICS}
            loss_curve(curves, self.path / CURVE, self._config.target_loss)

    def close(self) -> None:
        """Gives the folder free."""
        self._stack.close()

    def _save(self) -> None:
        for name in (METRICS, LOG):
            sync(self.path / name)
        sizes = {name: (self.path / name).stat().st_size for name in (METRICS, LOG)}
        saved = checkpoint.save(self.path / "checkpoints", self.trainer, {"logs": sizes})
        (self.path / checkpoint.MODEL).unlink(missing_ok=True)  # older, if there
        set_aside_unless_of(self.path, saved / checkpoint.MODEL)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Takes the folder's lock, which the system frees when the process ends in any way; where
        what is done under it fails, gives it free at once. Else `close` does."""
        with ExitStack() as stack:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
            stack.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process trains run {self.path.name!r}; wait for it, or use --run"
                ) from None
            yield
            self._stack = stack.pop_all()
