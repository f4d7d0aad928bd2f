"""What a run will be: all that decides it, before anything is written or built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime import Runtime
from ..settings.config import ModelConfig, TrainConfig
from ..text.corpus import Corpus
from ..text.vocabulary import Vocabulary
from ..training import cost
from .config_file import LearnedText
from .pretrained import Pretrained


@dataclass(frozen=True)
class RunPlan:
    """A run to begin, or with `resumed` to go on with. `start` are the weights to begin with, None
    for random ones; `by_default` tells whether the machine chose the preset. Where the corpus is
    made of several `texts`, the first `rehearsed` are those of the run that it begins with."""

    path: Path
    preset: str
    recipe: str
    model: ModelConfig
    config: TrainConfig
    corpus: Corpus
    start: Pretrained | None = None
    resumed: bool = False
    by_default: bool = False
    texts: tuple[LearnedText, ...] = ()
    rehearsed: int = 0

    def to_json(self) -> dict[str, Any]:
        """What has to be the same for all who share the run's work."""
        return {
            "path": str(self.path),
            "model": self.model.to_json(),
            "train": self.config.to_json(),
            "corpus": vars(LearnedText.of(self.corpus)),
            "texts": len(self.texts),
            "rehearsed": self.rehearsed,
        }


def must_fit(plan: RunPlan, runtime: Runtime, ranks: int, free: int) -> None:
    """Raises ValueError where so many ranks of a run, some of them on this machine, take more than
    its `free` bytes."""
    closed = plan.config.closed_vocab
    rows = Vocabulary.of(plan.corpus.ids).rows if closed else plan.model.vocab_size
    share = free // runtime.launch.local_size
    on_cpu = runtime.device == "cpu"
    cost.must_fit(plan.model, plan.config, rows, on_cpu, share, ranks, plan.resumed)
