"""How much of a text a model gives back, from true tokens of it: discoverable extraction.

Terms and conventions: Carlini et al., 2023 (arXiv:2202.07646); Biderman et al., 2023
(arXiv:2304.11158); Hayes et al., 2024 (arXiv:2410.19482).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..generation.batched import continuations
from ..model.language_model import LanguageModel
from .loss import Progress, window_scores
from .repeats import Repeats, followed, periodic

Z95 = 1.959964  # the standard normal's 97.5th percentile
LENGTHS = ((32, 32), (50, 50))  # k given and m said: Biderman's and Carlini's
RUN = 256  # tokens that a free run is followed at most
FREE_RUNS = 64
TIES = 8  # one free run in so many, or one, may differ from teacher forcing by a tie
_DRAWS, _CHANCE = (1, 10, 100), 0.9  # of (n, p)-discoverable extraction


@dataclass(frozen=True)
class Sample:
    """Offsets at which a text is measured, ascending; `complete` if none is left out."""

    offsets: np.ndarray
    complete: bool


def sample(n: int, samples: int, seed: int, all_below: int = 0) -> Sample:
    """`samples` of n offsets, one at random in each of as many equal parts; all where few."""
    if n <= max(samples, all_below):
        return Sample(np.arange(n), True)
    edges = np.linspace(0, n, samples + 1).astype(int)
    return Sample(np.random.default_rng(seed).integers(edges[:-1], edges[1:]), False)


def wilson(hits: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `hits` in `n` draws (Wilson, 1927); rounding must not
    leave out the share itself, where it is 0 or 1."""
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def interval(hits: int, n: int, complete: bool, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of `hits` in a sample of n; where that is `complete`, the share itself: a
    count, not an estimate."""
    return (hits / n, hits / n) if complete else wilson(hits, n, z)


def extraction(
    model: LanguageModel,
    ids: np.ndarray,
    k: int,
    m: int,
    chosen: Sample,
    progress: Progress = lambda share: None,
) -> dict[str, Any]:
    """em@k,m: the share of offsets where greedy decoding of k true tokens says the next m, or other
    m that follow these k elsewhere in the text: nobody could tell which are meant.

    Where k + m − 1 tokens fit the trained context, from one teacher-forced pass: free-running is
    the text up to the first token that is not the likeliest (`free_running` puts that to the test).
    What that leaves open at ambiguous offsets is decoded. The same pass gives p_z, the chance of
    sampling the m tokens at temperature 1, and the share of offsets at which n draws say them with
    a chance of 0.9 or more.
    """
    repeats = Repeats.of(ids, k, m)
    ambiguous = repeats.ambiguous[chosen.offsets]
    more: dict[str, Any] = {}
    if k + m - 1 <= model.context:
        windows = ids[chosen.offsets[:, None] + np.arange(k + m)]
        scores = window_scores(model.gpt, windows, m, model.vocabulary, progress)
        known = np.all(scores.hit, axis=1)
        p_z = np.exp(-scores.nll.sum(1, dtype=np.float64))
        more["p_z_half"] = float((p_z >= 0.5).mean())
        draws = {str(n): float((1 - (1 - p_z) ** n >= _CHANCE).mean()) for n in _DRAWS}
        more["discoverable"] = draws
        group = repeats.group[chosen.offsets]
        known |= ambiguous & np.isin(group, group[known])  # equal prompts have one answer
        unsettled = np.flatnonzero(ambiguous & ~known)
    else:
        known, unsettled = np.zeros(len(chosen.offsets), bool), np.arange(len(chosen.offsets))
    known[unsettled] = _decoded(model, repeats, chosen.offsets[unsettled])
    if not more:
        progress(1)
    hits = int(known.sum())
    rate = hits / len(known)
    low, high = interval(hits, len(known), chosen.complete)
    return {
        "k": k,
        "m": m,
        "rate": rate,
        "low": low,
        "high": high,
        "offsets": len(known),
        "every_offset": chosen.complete,
        "ambiguous": int(ambiguous.sum()),
        "text_offsets": len(repeats.ambiguous),
        "text_ambiguous": int(repeats.ambiguous.sum()),
        "text_periodic": int((periodic(ids, k, m) & ~repeats.ambiguous).sum()),
        "free_running": not more,
        **more,
        "failing": chosen.offsets[~known].tolist(),
    }


def _decoded(model: LanguageModel, repeats: Repeats, offsets: np.ndarray) -> np.ndarray:
    """Whether what greedy decoding says after the k tokens at each offset follows them in the text;
    offsets with the same k tokens share one decoding."""
    if not len(offsets):
        return np.zeros(0, bool)
    _, first, place = np.unique(repeats.group[offsets], return_index=True, return_inverse=True)
    starts = offsets[first]
    windows = repeats.ids[starts[:, None] + np.arange(repeats.k + repeats.m)]
    decoded = continuations(model, windows, repeats.k).ids
    pairs = zip(starts, decoded, strict=True)
    return np.array([repeats.has(start, continuation) for start, continuation in pairs])[place]


def alignment(measured: dict[str, Any], chosen: Sample, window: int, bins: int = 8) -> list[float]:
    """Extraction rate by offset modulo the training window, in `bins` equal parts of it."""
    exact = ~np.isin(chosen.offsets, measured["failing"])
    place = chosen.offsets % window * bins // window
    return [float(exact[place == b].mean()) for b in range(bins) if (place == b).any()]


def free_running(
    model: LanguageModel, ids: np.ndarray, k: int, m: int, seed: int
) -> dict[str, Any]:
    """Free runs from `k` true tokens at a sample of offsets: their length up to the first token
    that is not the text's there, the share that goes on to the end as the text does somewhere, the
    memorisation score over `m` tokens, and whether teacher forcing agrees.

    Runs end at RUN tokens, or in short texts at half of what follows. Teacher forcing and the cache
    round differently, so they may differ where the true token and another are as good as equally
    likely; that is counted as a tie, of which there may be few.
    """
    length = min(RUN, (len(ids) - k) // 2)
    offsets = sample(len(ids) - k - length + 1, FREE_RUNS, seed).offsets
    windows = ids[offsets[:, None] + np.arange(k + length)]
    decoded = continuations(model, windows, k)
    equal = decoded.ids == windows[:, k:]
    runs = _leading(equal)
    # Tokens that both see from the same start; none where the prompt fills the context.
    within = max(0, min(length, model.context + 1 - k))
    free, forced = np.minimum(runs, within), np.zeros(len(runs), int)
    if within:
        visible = windows[:, : k + within]
        forced = _leading(window_scores(model.gpt, visible, within, model.vocabulary).hit)
    differ = np.flatnonzero(free != forced)
    ties = sum(decoded.tie[i, min(free[i], forced[i])] for i in differ)
    reach = max(1, model.context // 2)  # what a run goes on from where its window is full
    whole = np.concatenate([windows[:, :k], decoded.ids], 1)
    right = [followed(ids, run, k, reach) == length for run in whole]
    return {
        "offsets": offsets.tolist(),
        "agrees": bool(len(differ) == ties <= max(1, len(offsets) // TIES)),
        "ties": int(ties),
        "score": float(equal[:, :m].mean()),
        "score_tokens": min(m, length),
        "followed": length,
        "right": float(np.mean(right)),
        "runs": runs.tolist(),
        **run_lengths(runs.tolist(), length),
    }


def run_lengths(runs: Sequence[int], length: int) -> dict[str, Any]:
    """The figures of the lengths of some runs, each of `length` tokens at most."""
    return {
        "median": float(np.median(runs)),
        "p5": float(np.percentile(runs, 5)),
        "shortest": min(runs),
        "whole": float(np.mean(np.equal(runs, length))),
        "histogram": _histogram(runs, length),
    }


def _leading(equal: np.ndarray) -> np.ndarray:
    """Number of leading true values of each row."""
    return np.where(equal.all(1), equal.shape[1], equal.argmin(1))


def _histogram(runs: Sequence[int], length: int) -> dict[str, int]:
    """Runs by length: below 8, 16, 32 …, and those that went to the end."""
    edges = [0, *(2**i for i in range(3, 20) if 2**i < length), length]
    names = [f"{a}-{b - 1}" for a, b in itertools.pairwise(edges)]
    counts = dict.fromkeys([*names, f"{length}"], 0)
    for run in runs:
        index = next((i for i, b in enumerate(edges[1:]) if run < b), len(names))
        counts[[*names, f"{length}"][index]] += 1
    return counts
