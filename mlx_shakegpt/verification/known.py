"""Whether a text is known by heart, as far as a training has to tell; `verify` measures it all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..model.gpt import GPT
from ..text.vocabulary import Vocabulary
from .extraction import LENGTHS, sample
from .loss import window_scores
from .repeats import Repeats, occurrences

# So many that what passes is certified nearly always: a true rate of 0.997 passes once in sixteen.
# Fewer where the text is short, as their windows overlap.
OFFSETS, LEAST_OFFSETS = 2000, 200
PROMPT = 8  # tokens from the text's start, after which it is to go on from there
AT_ONCE = 50  # after which a sample that has failed already is not gone on with


def extracted(
    model: GPT,
    ids: np.ndarray,
    context: int,
    vocabulary: Vocabulary | None,
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[float, bool]:
    """The share of a random sample of offsets whose continuations are the likeliest, for all
    lengths that `verify` asks for and the context has room for; and whether the text counts as
    known: at most one offset in a thousand has failed, and the text's first window goes on from a
    prompt as it should.

    Offsets at which the text goes on in several ways are left out. A sample that fails ends early.
    `tick` is called every so often.
    """
    pairs = [(k, m) for k, m in LENGTHS if k + m - 1 <= min(context, len(ids) - 1)]
    half = (min(context, len(ids) - 1) + 1) // 2
    pairs = pairs or [(half, half)]
    length = max(k + m for k, m in pairs)
    n = len(ids) - length + 1
    clear = ~np.any([Repeats.of(ids, k, m).ambiguous[:n] for k, m in pairs], axis=0)
    places = np.flatnonzero(clear)
    count = max(min(LEAST_OFFSETS, len(places)), min(OFFSETS, len(places) // 8))
    offsets = places[sample(len(places), count, seed).offsets]
    offsets = np.random.default_rng(seed).permutation(offsets)
    allowed, wrong, measured = len(offsets) // 1000, 0, 0
    first = min(k for k, _ in pairs)
    while measured < len(offsets) and wrong <= allowed:
        chosen = offsets[measured : measured + AT_ONCE]
        windows = ids[chosen[:, None] + np.arange(length)]
        hit = window_scores(model, windows, length - first, vocabulary).hit
        exact = [hit[:, k - first : k - first + m].all(1) for k, m in pairs]
        wrong += int((~np.all(exact, axis=0)).sum())
        measured += len(chosen)
        tick()
    sampled = bool(measured) and wrong <= allowed
    return 1 - wrong / max(1, measured), sampled and _begun(model, ids, context, vocabulary)


def _begun(model: GPT, ids: np.ndarray, context: int, vocabulary: Vocabulary | None) -> bool:
    """Whether the text's first window is known from its start, where no token precedes it; but for
    tokens that nobody could tell there, as their beginning goes on otherwise elsewhere."""
    window = ids[: min(context, len(ids) - 1) + 1]
    first = min(PROMPT, len(window) - 1)
    hit = window_scores(model, window[None], len(window) - first, vocabulary).hit[0]
    for place in first + np.flatnonzero(~hit):
        ends = occurrences(ids, ids[:place])
        if (ids[ends[ends < len(ids)]] == ids[place]).all():
            return False
    return True
