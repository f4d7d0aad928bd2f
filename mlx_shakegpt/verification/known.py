"""Whether a text is known by heart, as far as a training has to tell; `verify` measures it all."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..model.gpt import GPT
from ..text.vocabulary import Vocabulary
from .extraction import LENGTHS, sample
from .loss import window_scores
from .repeats import Repeats, occurrences

# Shares of offsets that fail: with the first a text counts as known, with the second it does not,
# and each is taken for the other about once in twenty times.
GOOD, BAD, ERROR = 0.001, 0.004, 0.05
OFFSETS, LEAST_OFFSETS = 4000, 200  # at most, and at least where the text has room for them
PROMPT = 8  # tokens from the text's start, after which it is to go on from there
AT_ONCE = 50  # offsets that are measured before the sample is judged again


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
    known: by `judged`, and as the text's first window goes on from a prompt as it should.

    Offsets at which the text goes on in several ways are left out. The sample ends as soon as it
    can be judged. `tick` is called every so often.
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
    wrong = measured = 0
    first = min(k for k, _ in pairs)
    while (sure := judged(wrong, measured, len(offsets))) is None:
        chosen = offsets[measured : measured + AT_ONCE]
        windows = ids[chosen[:, None] + np.arange(length)]
        hit = window_scores(model, windows, length - first, vocabulary).hit
        exact = [hit[:, k - first : k - first + m].all(1) for k, m in pairs]
        wrong += int((~np.all(exact, axis=0)).sum())
        measured += len(chosen)
        tick()
    return 1 - wrong / max(1, measured), sure and _begun(model, ids, context, vocabulary)


def judged(wrong: int, measured: int, most: int) -> bool | None:
    """Whether a text counts as known, of which so many of the `measured` offsets are `wrong`, and
    at most `most` can be measured; None where more have to be.

    By the sequential probability ratio test (Wald, 1945) of GOOD against BAD. Where that is still
    open after `most` offsets, at most the share GOOD of them may be wrong.
    """
    if not most:
        return False
    odds, step = math.log(BAD / GOOD), math.log((1 - BAD) / (1 - GOOD))
    limit = math.log((1 - ERROR) / ERROR)
    if (evidence := wrong * odds + (measured - wrong) * step) <= -limit:
        return True
    in_time = evidence + (most - measured) * step <= -limit or wrong <= GOOD * most
    if evidence >= limit or not in_time:
        return False
    return True if measured == most else None


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
