"""Whether stated rates hold on a sample that whoever stated them could not foresee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ..model.language_model import LanguageModel
from .comparison import PLACES, share_allowed
from .extraction import extraction, interval, sample
from .figures import PartProgress

CONFIDENCE, Z = 0.99, 2.575829  # of a fresh sample's interval, two-sided


@dataclass(frozen=True)
class FreshRate:
    """A rate on a fresh sample of offsets, its interval, and the interval that was stated."""

    name: str
    rate: float
    low: float
    high: float
    offsets: int
    stated: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether the intervals meet; a count of every offset may differ by what rounding does."""
        rounding = share_allowed(self.offsets) if self.low == self.high else 0.0
        return self.low - rounding <= self.stated[1] and self.stated[0] <= self.high + rounding

    def may_be(self, least: float) -> bool:
        """Whether the rate may be `least` or more, but for the places that rounding changes."""
        return self.high + PLACES / self.offsets >= least

    def to_json(self) -> dict[str, Any]:
        """All fields, and whether the intervals agree."""
        return asdict(self) | {"agrees": self.agrees}

    def __str__(self) -> str:
        verb = "agrees" if self.agrees else "disagrees"
        return (
            f"{self.name}: a fresh sample of {self.offsets:,} offsets {verb} with the stated "
            f"interval [{self.stated[0]:.4f}, {self.stated[1]:.4f}]: {self.rate:.4f}, "
            f"{CONFIDENCE:.0%} interval [{self.low:.4f}, {self.high:.4f}]"
        )


def fresh_rates(
    stated: Sequence[dict[str, Any]],
    model: LanguageModel,
    ids: np.ndarray,
    seed: int,
    samples: int,
    progress: PartProgress = lambda part, share: None,
) -> list[FreshRate]:
    """The stated rates beside those of fresh samples of `samples` offsets (0, or more than there
    are: all of them)."""
    rates = []
    for rate in stated:
        k, m = rate["k"], rate["m"]
        n = len(ids) - k - m + 1
        chosen = sample(n, samples or n, seed)
        name = f"em@{k},{m}"
        measured = extraction(model, ids, k, m, chosen, partial(progress, name))
        share, size = measured["rate"], len(chosen.offsets)
        low, high = interval(round(share * size), size, chosen.complete, Z)
        rates.append(FreshRate(name, share, low, high, size, (rate["low"], rate["high"])))
    return rates
