"""How the next token is chosen, as options. Knows nothing of models."""

from __future__ import annotations

from dataclasses import dataclass

from .options import NOT_NEGATIVE, SEED, SHARE, Checked, option


@dataclass(frozen=True)
class Sampling(Checked):
    """How the next token is chosen among the model's predictions."""

    temperature: float = option(
        0.0, "0 takes the likeliest token; 1 samples as trained", NOT_NEGATIVE
    )
    top_k: int = option(0, "sample among this many likeliest tokens; 0: all", NOT_NEGATIVE)
    top_p: float = option(0.0, "sample within this share of probability; 0: all", SHARE)
    min_p: float = option(0.0, "leave out tokens below this share of the likeliest's", SHARE)
    seed: int = option(0, "seed of the sampling", SEED)
