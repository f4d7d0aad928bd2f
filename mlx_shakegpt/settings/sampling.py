"""How the next token is chosen, as options."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import NOT_NEGATIVE, SEED, SHARE, Check, Checked, option

# Beyond these, float32 rounds or overflows, and what is drawn is noise.
_TEMPERATURE: Check = (lambda t: t == 0 or 1e-6 <= t <= 1e6, "0, or between 1e-6 and 1e6")


@dataclass(frozen=True)
class Sampling(Checked):
    """How the next token is chosen among the model's predictions."""

    temperature: float = option(
        0.0, "0 takes the likeliest token; 1 samples as trained", _TEMPERATURE
    )
    top_k: int = option(0, "sample among this many likeliest tokens; 0: all", NOT_NEGATIVE)
    top_p: float = option(0.0, "sample within this share of probability; 0: all", SHARE)
    min_p: float = option(0.0, "leave out tokens below this share of the likeliest's", SHARE)
    seed: int = option(0, "seed of the sampling", SEED)
