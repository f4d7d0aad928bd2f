"""Where a run stands, and how that changes stop, rate and depth. Plain numbers."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace

from ..settings.config import TrainConfig
from ..verification.loss import Evaluation
from .windows import CAP

RECENT = 25  # steps whose losses tell what is usual
SPIKE = 3.0  # times their median
SMOOTHED = 20  # steps over which the loss is smoothed that rate, depth and weights go by


@dataclass
class RunState:
    """Where a run stands: with the configuration and the text, all that decides what follows."""

    step: int = 0
    full_at: int = 0  # first step with windows of the full context
    decay_at: int = 0  # first step of the falling rate
    total: int = 0  # steps in all
    deep: bool = True  # all blocks are trained
    pretrained: bool = False  # began with weights that know all positions
    reached: bool = False  # the last evaluation met what `stop` asks for
    known: bool = False  # the last evaluation found the text known by heart
    evaluations: list[dict[str, float]] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)  # losses of the last steps
    halvings: int = 0  # of the rate, after losses that were not finite
    noted: int = 0  # steps whose losses were read
    smoothed: list[float] = field(default_factory=list)  # their smoothed losses, the last two

    @classmethod
    def planned(cls, config: TrainConfig, total: int, pretrained: bool) -> RunState:
        """A run of `total` steps before its first one."""
        grows = 0 < config.short_context < config.context
        return cls(
            full_at=round(config.grow * total) if grows else 0,
            decay_at=max(min(config.warmup_steps, total - 1), round(config.hold * total)),
            total=total,
            deep=not config.first_blocks or pretrained,
            pretrained=pretrained,
        )

    def extended(self, plan: RunState) -> RunState:
        """This state with the steps of a longer plan; whole windows and the rate's fall, where they
        have not begun, begin as it says. Raises ValueError where it is not longer."""
        if plan.total <= self.total:
            raise ValueError(
                f"the run has {self.total:,} steps, and {plan.total:,} were asked for; ask for more"
            )
        full_at = plan.full_at if self.step <= self.full_at else self.full_at
        decay_at = plan.decay_at if self.step <= self.decay_at else self.decay_at
        return replace(self, full_at=full_at, decay_at=decay_at, total=plan.total)

    def apply_stop_rule(self, result: Evaluation, config: TrainConfig) -> None:
        """Takes the evaluation of the last step, and applies the stop rule.

        A run that stops when the text is known is over then, and not before. On target, any other
        without a finish is over. One with a finish goes on to whole windows; where they are on
        target too, its rate falls to the end, over as large a share of the steps as planned. For
        windows and rate an estimate is enough.
        """
        below = result.nll < config.target_loss
        on_target = below and result.complete
        self.known = on_target and result.known
        self.reached = self.known if config.stop == "known" else on_target
        entry = {"step": self.step, "nll": result.nll, "complete": result.complete}
        if result.extracted is not None:
            entry["extracted"] = result.extracted
        self.evaluations.append(entry)
        if not below or self.step == self.total:
            return
        falls = config.finish and self.decay_at < self.total
        if self.known or (not falls and config.stop != "known"):
            self.total = self.step
        elif self.step <= self.full_at:
            self.full_at = self.step
        elif falls and self.step < self.decay_at:
            share = (self.total - self.decay_at) / self.decay_at
            self.decay_at = self.step
            if config.stop != "known":
                self.total = self.step + max(1, math.ceil(share * self.step))

    def note_loss(self, loss: float) -> float:
        """Takes a step's loss; how many times the recent ones' median it is if it is a spike."""
        median = statistics.median(self.recent) if len(self.recent) == RECENT else math.inf
        self.recent = [*self.recent[1 - RECENT :], loss]
        return loss / median if loss > max(SPIKE * median, median + 1) else 0.0

    def note_context_loss(self, loss: float | None) -> None:
        """Takes the loss of a step's targets with context, None where it had none, which rate,
        depth and the weight of first targets go by."""
        if loss is None:
            loss = self.smoothed[-1] if self.smoothed else CAP
        before = self.smoothed[-1] if self.smoothed else loss
        share = 1 / min(self.noted + 1, SMOOTHED)
        self.noted += 1
        self.smoothed = [*self.smoothed[-1:], before + share * (loss - before)]

    @property
    def smoothed_loss(self) -> float:
        """The smoothed loss by which a step goes; infinite before there is one.

        The loss of the step just before is never taken, read or not, so that it makes no difference
        when numbers are read.
        """
        late = self.noted - (self.step - 1)  # 1 where the last step's loss was read, else 0
        return self.smoothed[-1 - late] if len(self.smoothed) > late else math.inf

    def deepen(self, below: float) -> bool:
        """Has all blocks trained from the next step on where the loss is low enough; True where
        they were not before."""
        joins = not self.deep and self.smoothed_loss < below
        self.deep |= joins
        return joins

    def edge_weight(self, config: TrainConfig) -> float:
        """What the first targets of a step's windows weigh."""
        lighter = config.edge_weight < 1 and self.smoothed_loss < config.edge_below
        return config.edge_weight if lighter else 1.0

    def slowing(self, follow: float) -> float:
        """What a step's rate is multiplied with: below a smoothed loss of `follow`, their ratio;
        and a half for each halving."""
        return 0.5**self.halvings * (min(1.0, self.smoothed_loss / follow) if follow else 1.0)
