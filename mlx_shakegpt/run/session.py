"""A run's folder: its settings, logs, checkpoints and final weights, kept in step with the trainer.

Knows nothing of terminals; whoever iterates `Run.train` draws the progress.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ..files import sync
from ..runtime import Runtime, versions
from ..runtime.ranks import ALONE, Ranks
from ..text import assets
from ..training import NotFinite, StepReport, Trainer, TrainingError, checkpoint
from ..verification.evidence import set_aside_unless_of
from ..weights.safetensors import save_tensors
from . import log_lines, metrics_file
from .config_file import LearnedText, RunConfig, read_config
from .curves import loss_curve
from .evaluated_trainer import trainer_of
from .folder import newest_checkpoint
from .lock import locked
from .log_files import appended, cut, cut_after
from .names import CURVE, LOG, METRICS, SAMPLES, must_be_new
from .plan import RunPlan
from .samples import TextSample
from .settings_file import write_settings
from .token_loss_file import TOKEN_LOSSES, TokenLossFile

SECONDS_BETWEEN_CHECKPOINTS, SECONDS_BETWEEN_BEST = 120, 30
HALVINGS = 3  # of the rate, after losses that were not finite


class Run:
    """One training run in its folder, which is locked until `close`."""

    def __init__(self, plan: RunPlan, ranks: Ranks = ALONE) -> None:
        """`ranks` share the work, of which the first has the folder. Raises ValueError as Trainer
        does."""
        self.path, self.corpus, self.plan = plan.path, plan.corpus, plan
        self.id = secrets.token_hex(4)  # tells it from others of its name, wherever it reports to
        self._stack = ExitStack()
        self.trainer = self._new_trainer(ranks)

    def _new_trainer(self, ranks: Ranks) -> Trainer:
        plan = self.plan
        start = plan.start.load() if plan.start else None
        return trainer_of(plan.model, plan.config, plan.corpus, start, ranks)

    def create(self, runtime: Runtime) -> None:
        """Makes the folder. Raises ValueError where the run exists."""
        plan = self.plan
        with self._locked():
            must_be_new(self.path)
            config = RunConfig(
                id=self.id,
                preset=plan.preset,
                recipe=plan.recipe,
                init=plan.start.record if plan.start else None,
                model=plan.model,
                train=plan.config,
                corpus=LearnedText.of(plan.corpus),
                tokenizer={"name": "gpt2", "sha256": assets.GPT2_MERGES.sha256},
                versions=versions(),
                device=runtime.device,
                texts=plan.texts,
                rehearsed=plan.rehearsed,
            )
            write_settings(config, self.path)
            config.write(self.path)  # last, as it makes the folder a run's

    def resume(self) -> list[str]:
        """Goes back to the newest sound checkpoint, or the start; cuts the logs to match. Where the
        run has more steps than config.json says, or its text has moved, it is written anew.

        Returns what is wrong with newer checkpoints or the logs. Raises ValueError where
        checkpoints exist and none is sound, or the run is of another text or configuration.
        """
        with self._locked():
            saved = read_config(self.path)
            self.id = saved.id or self.id
            if saved.corpus.sha256 != self.corpus.sha256:
                raise ValueError(
                    f"run {self.path.name!r} learns another text ({saved.corpus.name}); "
                    "resume with the text it was started with"
                )
            newest, damaged = newest_checkpoint(self.path)
            checkpoint.set_aside(self.path / "checkpoints", newest)
            problems = [f"{problem}; going back to the one before" for problem in damaged]
            problems += self._go_back_to(newest)
            self._note_changes(saved)
            return problems

    def _go_back_to(self, saved: Path | None) -> list[str]:
        """Puts trainer and logs back to a checkpoint, or, with a new trainer, to the start. Returns
        what the logs lack."""
        sizes = checkpoint.restore(saved, self.trainer)["logs"] if saved else {}
        logs = self.path / METRICS, self.path / LOG
        short = [log for log in logs if not cut(log, sizes.get(log.name, 0))]
        cut_after(self.path / SAMPLES, self.trainer.state.step)
        return [f"{log} lacks lines, which no step depends on; going on without" for log in short]

    def _note_changes(self, saved: RunConfig) -> None:
        """Writes down where the texts are now, and a longer plan with what it was before."""
        changed = replace(saved, corpus=LearnedText.of(self.corpus), texts=self.plan.texts)
        before = saved.train
        if before != self.plan.config:
            length = {"step": self.trainer.state.step, "epochs": before.epochs}
            length["steps"] = before.steps
            changed = replace(
                changed, train=self.plan.config, lengthened=(*saved.lengthened, length)
            )
        if changed != saved:
            changed.write(self.path)
            write_settings(changed, self.path)

    def train(
        self, checkpoint_every: int = 0, tell: Callable[[str], None] = lambda line: None
    ) -> Iterator[StepReport]:
        """Trains; after each report the logs, and where one is due the checkpoint, are on disk.

        `checkpoint_every` is the number of steps between checkpoints; 0: one every two minutes.
        When the iteration ends, the state is saved, and the final weights if the run is over. From
        a loss that is not finite the run goes back to its newest checkpoint, with half the rate
        from there on, and says so to `tell`. Raises TrainingError where that has happened HALVINGS
        times, or among several ranks.
        """
        while True:
            try:
                yield from self._train(checkpoint_every, tell)
                return
            except NotFinite as error:
                tell(self._back_at_half_the_rate(error))

    def _back_at_half_the_rate(self, error: NotFinite) -> str:
        """Returns what to say of it."""
        halvings, ranks = self.trainer.state.halvings + 1, self.trainer.ranks
        if halvings > HALVINGS or ranks.size > 1:
            raise TrainingError(f"{error}; start another `run` with a lower `lr`") from None
        newest, _ = newest_checkpoint(self.path)
        if not newest:
            self.trainer = self._new_trainer(ranks)
        self._go_back_to(newest)
        state = self.trainer.state
        state.halvings = max(state.halvings + 1, halvings)
        line = (
            f"{error}; going back to step {state.step} with half the rate, for the "
            f"{('first', 'second', 'third')[state.halvings - 1]} time of {HALVINGS}"
        )
        with appended(self.path / LOG) as file:
            file.write(line + "\n")
        return line

    def _train(self, checkpoint_every: int, tell: Callable[[str], None]) -> Iterator[StepReport]:
        trainer = self.trainer
        trainer.tell = tell
        losses = trainer.curriculum.losses
        token_losses = TokenLossFile(
            self.path / TOKEN_LOSSES, len(losses.nll), trainer.state.step, tell
        )
        saved_at = time.monotonic()
        saved_step = trainer.state.step

        def due(step: int) -> bool:
            if checkpoint_every:
                return step % checkpoint_every == 0
            return time.monotonic() - saved_at > SECONDS_BETWEEN_CHECKPOINTS

        with appended(self.path / METRICS) as jsonl, appended(self.path / LOG) as log:
            for report in trainer.run(settle=due):
                jsonl.writelines(line + "\n" for line in metrics_file.json_lines(report))
                log.write(log_lines.log_line(report) + "\n")
                if report.evaluation:
                    log.write(log_lines.eval_line(report) + "\n")
                jsonl.flush()
                log.flush()
                over = report.step == trainer.state.total
                token_losses.note(report.step, report.epoch, losses.nll, last=over)
                if report.settled and (due(report.step) or self._improved(report, saved_at)):
                    self._save()
                    saved_at, saved_step = time.monotonic(), report.step
                yield report
        if trainer.state.step != saved_step:
            self._save()
        if trainer.state.step == trainer.state.total:
            save_tensors(self.path / checkpoint.MODEL, checkpoint.weights_of(trainer))
            set_aside_unless_of(self.path, self.path / checkpoint.MODEL)
        try:
            self.draw()
        except (OSError, ValueError) as error:  # a picture must not cost a training its end
            tell(f"Warning: {CURVE} was not drawn: {error}.")

    def _improved(self, step: StepReport, saved_at: float) -> bool:
        """Whether the text was never known better, and the last checkpoint is not quite fresh."""
        if not step.evaluation or time.monotonic() - saved_at < SECONDS_BETWEEN_BEST:
            return False
        return step.evaluation.nll <= min(e["nll"] for e in self.trainer.state.evaluations)

    def keep_sample(self, sample: TextSample) -> None:
        """Writes down what the model said, for whoever follows the run; nothing depends on it."""
        with suppress(OSError), appended(self.path / SAMPLES) as jsonl:
            jsonl.write(metrics_file.sample_entry(sample) + "\n")

    def draw(self) -> None:
        """Draws loss.png, where there is something to draw."""
        if self.trainer.state.step:
            curves = {self.path.name: self.path / METRICS}
            loss_curve(curves, self.path / CURVE, self.plan.config.target_loss)

    def close(self) -> None:
        """Releases the folder's lock."""
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
        what is done under it fails, releases it at once. Else `close` does."""
        with locked(self.path) as stack:
            yield
            self._stack = stack.pop_all()
