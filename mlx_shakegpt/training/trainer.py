"""The training loop as a generator of reports.

Whoever iterates the loop draws the progress, writes the log, saves, or stops. Knows nothing of
terminals, files or the measure of success: the evaluation is handed in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..model.gpt import GPT
from ..model.initial import initialise, position_masks
from ..model.language_model import LanguageModel, rows_for
from ..model.trees import flat
from ..runtime import on_gpu, peak_bytes, products_of, with_products_of
from ..runtime.ranks import ALONE, Ranks
from ..settings.config import ModelConfig, TrainConfig
from ..text.vocabulary import Vocabulary, within
from ..verification.loss import Evaluation
from .curriculum import Curriculum
from .optimizer import learning_rate, optimizer_of
from .positions import grow
from .ranks import align, share
from .reports import NotFinite, StepReport
from .run_state import RunState
from .step import Step, StepResult
from .windows import Batch, with_edge

Evaluate = Callable[[GPT, int], Evaluation]  # model, context

EVALUATIONS_AT_LEAST_APART = 20  # steps, for texts whose epoch is shorter


@dataclass(frozen=True)
class _Running:
    """A step whose numbers have not been read."""

    step: int
    batch: Batch
    lr: float
    result: StepResult


class Trainer:
    """A run: model, optimiser, data order and progress, from the first step or from a saved one."""

    def __init__(
        self,
        model_config: ModelConfig,
        config: TrainConfig,
        ids: np.ndarray,
        evaluate: Evaluate,
        start: LanguageModel | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Training begins with the weights of `start`, or with random ones; `ranks` share batches.

        Raises ValueError for ids, or a context, that the model has no place for, for settings
        that pretrained weights do not allow, and for more ranks than windows.
        """
        if config.context > model_config.n_positions:
            raise ValueError(
                f"a context of {config.context} is more than the model's "
                f"{model_config.n_positions} positions; use `context` {model_config.n_positions}"
            )
        if config.batch_size < ranks.size:
            raise ValueError(
                f"{ranks.size} ranks cannot share {config.batch_size} windows a step; "
                f"use `batch_size` {ranks.size} or more, or fewer ranks"
            )
        self.config, self.evaluate, self.ranks = config, evaluate, ranks
        self.tell: Callable[[str], None] = lambda line: None  # hears of long work between steps
        ids = within(ids, model_config.vocab_size)
        closed = Vocabulary.of(ids, model_config.vocab_size) if config.closed_vocab else None
        self.vocabulary = closed
        self.model = GPT(model_config, closed.rows if closed else None)
        self.model.set_dtype(getattr(mx, config.dtype))
        how = config.zero_residual, config.positions, config.logit_gain
        initialise(self.model, config.seed, *how)
        if start is not None:
            self.model.update(start.gpt.parameters())
            self.model.wte.weight = rows_for(start, closed)
            self.model.set_dtype(getattr(mx, config.dtype))
        self.optimizer = optimizer_of(config, model_config.n_embd)
        self.optimizer.init(self.model.trainable_parameters())
        mx.eval(self.optimizer.state)
        row_ids = closed.rows_of(ids) if closed else ids
        self.curriculum = Curriculum(row_ids, config)
        self.absent = closed.absent if closed else 1
        total = config.steps or self.curriculum.steps(config.epochs)
        self.state = RunState.planned(config, total, pretrained=start is not None)
        self._eval_every = max(self.curriculum.steps(config.eval_every), EVALUATIONS_AT_LEAST_APART)
        self.gpu = on_gpu()
        self._stop_requested = self._stopping = self._settle_requested = False

    def start_together(self) -> None:
        """Goes to where rank 0's trainer stands; all ranks call it, before they run."""
        self.state = share(self.model, self.optimizer, self.curriculum, self.state, self.ranks)

    def stop(self) -> None:
        """Asks the loop to end after the step that runs, or among ranks after the next one, which
        tells all of them; its report will be settled."""
        self._stop_requested, self._stopping = True, self.ranks.size == 1

    def settle_soon(self) -> None:
        """Asks for a report that is settled, after the step that runs or the next one."""
        self._settle_requested = True

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0: short windows at first, whole ones later."""
        return self.curriculum.batch(step, self.state.full_at)

    def context(self, step: int) -> int:
        """Window length of a step, counted from 0."""
        return self.curriculum.context(step, self.state.full_at)

    def compiled_step(self, blocks: int | None = None) -> Step:
        """A training step of the first so many `blocks`, by default of those trained now."""
        now = len(self.model.h) if self.state.deep else self.config.first_blocks
        self.model.use_blocks(blocks or now)
        limit, masks = self.config.clip, None
        if self.config.positions == "look-back":
            masks = position_masks(flat(self.model.parameters()), self.model.config.n_head)
        return Step(self.model, self.optimizer, limit, self.absent, self.ranks, masks)

    def run(
        self, settle: Callable[[int], bool] = lambda step: False, ahead: bool | None = None
    ) -> Iterator[StepReport]:
        """Trains on from `state.step`; yields a report a step, in order.

        With `ahead`, the default on a GPU, numbers are read one step late, so that the device never
        waits for Python; but those of an evaluated step, of the last one, and of one for which
        `settle(step)` holds are read at once. CPUs, several ranks
        and `stop` "batch" always read at once. Raises NotFinite where a loss or norm is not finite.
        """
        return with_products_of(self.config.products, self._run(settle, ahead))

    def _run(self, settle: Callable[[int], bool], ahead: bool | None) -> Iterator[StepReport]:
        state = self.state
        ahead = (self.gpu if ahead is None else ahead) and self.ranks.size == 1
        ahead = ahead and self.config.stop != "batch"
        step_fn = self.compiled_step()
        running: _Running | None = None
        batch = self.batch(state.step)
        clock = time.perf_counter()
        while state.step < state.total and not self._stopping:
            if state.step == state.full_at > 0 and not self._knows_positions:
                grow(self.model, self.optimizer, self.context(0), self.config.context)
            if state.deepen(self.config.deepen):
                step_fn = self.compiled_step()
            lr = learning_rate(state.step, self.config, state.decay_at, state.total)
            lr *= state.slowing(self.config.follow)
            batch = with_edge(batch, state.edge_weight(self.config))
            result = step_fn(batch, lr, self._stop_requested)
            before, running = running, _Running(state.step + 1, batch, lr, result)
            if before:
                report, clock = self._report(before, clock)
                yield report
            state.step += 1
            # An evaluation may change what comes next, and so do the losses seen.
            if prepared := state.step < state.total and not self._must_read_now():
                batch = self.batch(state.step)
            if not ahead or self._must_settle(settle):
                report, clock = self._report(running, clock)
                running, self._settle_requested = None, False
                if self._batch_below_target(report):
                    state.total = state.step
                evaluation = self._evaluate() if self._evaluation_due() else None
                yield replace(report, settled=True, evaluation=evaluation)
                clock = time.perf_counter()
            if not prepared and state.step < state.total:
                batch = self.batch(state.step)
        if running:
            report, _ = self._report(running, clock)
            yield replace(report, settled=True)
        self._stop_requested = self._stopping = False

    @property
    def _knows_positions(self) -> bool:
        """Whether positions mean something before any window had them."""
        return self.state.pretrained or self.config.positions != "learned"

    def _batch_below_target(self, report: StepReport) -> bool:
        """Whether the run is to end as its batch was below the target."""
        return self.config.stop == "batch" and report.loss < self.config.target_loss

    def _must_settle(self, settle: Callable[[int], bool]) -> bool:
        """Whether the last step is to be reported at once, with the weights right after it."""
        step = self.state.step
        must_report = self._stopping or self._settle_requested or step == self.state.total
        return must_report or self._must_read_now() or settle(step)

    def _must_read_now(self) -> bool:
        """Whether the last step's numbers decide the next batch, so that they are read first."""
        return self._evaluation_due() or self.curriculum.draws(self.state.step, self.state.full_at)

    def _evaluation_due(self) -> bool:
        """Whether the last step's weights are to be evaluated."""
        step = self.state.step
        if step == self.state.total:
            return True
        falling = self.config.finish and step > self.state.decay_at
        return step % self._eval_every == 0 and (not falling or self.config.stop == "known")

    def _evaluate(self) -> Evaluation:
        """Measures the weights, which may end the run or begin the fall of its rate."""
        align(self.model, self.optimizer, self.ranks)
        with products_of("float32"):  # as `verify` has them
            result = self.evaluate(self.model, self.context(self.state.step - 1))
        mx.clear_cache()  # a GPU's, of arrays in an evaluation's shapes
        self.state.apply_stop_rule(result, self.config)
        return result

    def _report(self, running: _Running, clock: float) -> tuple[StepReport, float]:
        """Waits for a step and reports it; `clock` is when the one before it was done."""
        step, result = running.step, running.result
        loss, norm = float(result.loss), float(result.norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NotFinite(
                f"loss {loss} and gradient norm {norm} at step {step} are not finite, with windows "
                f"from tokens {', '.join(map(str, running.batch.starts))}"
            )
        self.state.note_context_loss(
            self.curriculum.losses.note(running.batch, np.array(result.nll))
        )
        self._stopping |= float(result.stop_requests) > 0
        self.ranks.tick(f"after step {step}")
        now = time.perf_counter()
        dt, tokens = now - clock, self.config.tokens_per_step
        numbers = (running.batch.epoch, step * tokens, loss, running.lr, norm, dt, tokens / dt)
        spike = self.state.note_loss(loss)
        report = StepReport(step, *numbers, peak_bytes=peak_bytes(), spike=spike)
        return report, now
