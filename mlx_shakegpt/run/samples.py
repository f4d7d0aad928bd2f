"""What a model says while it learns: now and then, greedily, in a small share of the time.

A sample draws no random numbers and changes no array, so that training goes on as if there were
none.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..generation.decoding import stream
from ..model.language_model import LanguageModel
from ..text import tokenizer
from ..text.corpus import Corpus
from ..text.quotations import Source, Span, covered, longest
from ..training import StepReport, Trainer

PROMPT = "ROMEO:"  # where the text has it
SHARE = 0.02  # of the time that samples may take
TOKENS = 40  # of a sample
FIRST_COST = 0.2  # seconds that a sample is expected to take before there was one
_FIRST_WORDS = re.compile(r"\s*\S{1,24}(?:[^\S\n]\S{1,24}){0,2}")


def default_prompt(text: str) -> str:
    """PROMPT for a text that has it; else the text's own first words, three of its first line."""
    first_words = _FIRST_WORDS.match(text)
    return PROMPT if PROMPT in text or not first_words else first_words[0]


@dataclass(frozen=True)
class TextSample:
    """What the weights after `step` say: the prompt with what they make of it, and the spans of
    that which stand in the learned text word for word."""

    step: int
    text: str
    spans: list[Span]

    @property
    def share(self) -> float:
        """Share of its characters that stand in the text word for word."""
        return covered(self.spans, self.text)

    @property
    def longest(self) -> int:
        """Words of the longest span."""
        return longest(self.spans)


class Sampler:
    """Takes samples of a run, as often as they are asked for and the time allows.

    All of them together take at most SHARE of the time since the sampler was made: the next one
    waits until the time has paid for those before it and for itself, as expensive as the last one
    was. One that takes longer than that is broken off and not shown. What MLX compiles for the
    first one is not counted: on a CPU it is kept for all runs to come.
    """

    def __init__(
        self,
        corpus: Corpus,
        prompt: str | None = None,
        every: float | None = None,
        seconds: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`every` is the number of epochs between samples, 0 for none at all; where it is None,
        they are `seconds` apart."""
        learned = tokenizer.decode(corpus.ids.tolist())
        self.prompt = default_prompt(learned) if prompt is None else prompt
        self._source = Source(learned, corpus.passage.first_line)
        self._ids = tokenizer.encode(self.prompt)
        self._every, self._seconds, self._clock = every, seconds, clock
        self._began = clock()
        self._last_epoch, self._last_time = 0.0, self._began
        self._spent, self._cost = 0.0, FIRST_COST
        self._model: LanguageModel | None = None

    def after(self, report: StepReport, trainer: Trainer) -> TextSample | None:
        """A sample of the weights right after a step, where one is due. After a step whose report
        is not settled there is none yet, but one that is settled is asked for."""
        if self._every == 0:
            return None
        if report.settled and self._model is None:
            self._compile(trainer)
        left = SHARE * (self._clock() - self._began - self._spent) - self._spent
        if left < self._cost or not self._due(report, trainer):
            return None
        if not report.settled:
            trainer.settle_soon()
            return None
        trainer.ranks.tick("speaking")
        self._last_epoch, started = report.epoch, self._clock()
        text = self._spoken(trainer, started + left)
        sample = None
        if text is not None:
            sample = TextSample(report.step, text, self._source.spans(text))
        self._last_time = self._clock()
        self._spent += self._last_time - started
        if sample:
            self._cost = self._last_time - started
        return sample

    def _due(self, report: StepReport, trainer: Trainer) -> bool:
        """Whether a sample is asked for; it always is after the last step."""
        if report.step == trainer.state.total:
            return True
        if self._every is None:
            return self._clock() - self._last_time >= self._seconds
        return report.epoch - self._last_epoch >= self._every

    def _compile(self, trainer: Trainer) -> None:
        """Has MLX compile what samples need, as after the first step."""
        started = self._clock()
        trainer.ranks.tick("compiling")
        for _ in stream(self._speaker(trainer), self._ids, 2):  # the prompt, and a single token
            pass
        self._began += self._clock() - started

    def _speaker(self, trainer: Trainer) -> LanguageModel:
        """The trainer's model as it is, ready to speak."""
        context = trainer.context(trainer.state.step - 1)
        model = self._model
        if model is None or model.gpt is not trainer.model or model.context != context:
            model = self._model = LanguageModel(trainer.model, trainer.vocabulary, context)
        return model

    def _spoken(self, trainer: Trainer, deadline: float) -> str | None:
        """The prompt and what follows it; None where that is not whole by the deadline."""
        made: list[int] = []
        first = 0.0
        for token in stream(self._speaker(trainer), self._ids, TOKENS):
            made.append(token)
            first = first or self._clock()
            if len(made) < TOKENS and self._clock() > deadline:
                rest = (self._clock() - first) / max(len(made) - 1, 1)
                self._cost = max(FIRST_COST, rest * TOKENS)
                return None
        return self.prompt + tokenizer.decode(made)
