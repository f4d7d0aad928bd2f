"""How much of a text a model gives back, from true tokens of it: discoverable extraction.

Terms and conventions: Carlini et al., 2023 (arXiv:2202.07646); Biderman et al., 2023
(arXiv:2304.11158); Hayes et al., 2024 (arXiv:2410.19482). Knows nothing of files or terminals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..weights import Speaker
from .nll import window_scores
from .recall import continuations

LENGTHS = ((32, 32), (50, 50))  # k given and m said: Biderman's and Carlini's
RUN = 256  # tokens that a free run is followed at most
FREE_RUNS = 64
TIES = 8  # one free run in so many, or one, may differ from teacher forcing by a tie
_DRAWS, _CHANCE = (1, 10, 100), 0.9  # of (n, p)-discoverable extraction


@dataclass(frozen=True)
class Sample:
    """Offsets at which a text is measured, ascending; `every` if none is left out."""

    offsets: np.ndarray
    every: bool


def sample(n: int, samples: int, seed: int, all_below: int = 0) -> Sample:
    """`samples` of n offsets, one at random in each of as many equal parts; all where few."""
    if n <= max(samples, all_below):
        return Sample(np.arange(n), True)
    edges = np.linspace(0, n, samples + 1).astype(int)
    return Sample(np.random.default_rng(seed).integers(edges[:-1], edges[1:]), False)


def ambiguous(ids: np.ndarray, k: int, m: int) -> np.ndarray:
    """Whether the k tokens at each offset stand elsewhere with other m tokens after them, (N,).

    From them nobody could tell which m are asked for.
    """
    offsets = len(ids) - k - m + 1
    prefix, whole = _alike(ids, k)[:offsets], _alike(ids, k + m)
    _, first = np.unique(whole, return_index=True)  # a place of each distinct window
    return np.bincount(prefix[first], minlength=len(ids))[prefix] > 1


def _alike(ids: np.ndarray, length: int) -> np.ndarray:
    """A number for the window of `length` ids at each place, the same where windows are the same,
    by doubling (Karp, Miller and Rosenberg, 1972)."""
    group, have = ids.astype(np.int64), 1
    while have < length:
        step = min(have, length - have)
        pairs = group[:-step] * (int(group.max()) + 1) + group[step:]
        group = np.unique(pairs, return_inverse=True)[1]
        have += step
    return group


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `hits` in `n` draws (Wilson, 1927); rounding must not
    leave out the share itself, where it is 0 or 1."""
    share, z2 = hits / n, z * z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def extraction(speaker: Speaker, ids: np.ndarray, k: int, m: int, chosen: Sample) -> dict[str, Any]:
    """em@k,m: the share of offsets where greedy decoding of k true tokens says the next m.

    Where k + m − 1 tokens fit the trained context, from one teacher-forced pass: free-running is
    the text up to the first token that is not the likeliest (`agreement` puts that to the test).
    The same pass gives p_z, the chance of sampling the m tokens at temperature 1, and the share of
    offsets at which n draws say them with a chance of 0.9 or more.
    """
    windows = ids[chosen.offsets[:, None] + np.arange(k + m)]
    result: dict[str, Any] = {"k": k, "m": m}
    if k + m - 1 <= speaker.context:
        scores = window_scores(speaker.model, windows, m, speaker.vocabulary)
        exact = np.all(scores.hit, axis=1)
        p_z = np.exp(-scores.nll.sum(1, dtype=np.float64))
        more = {
            "p_z_half": float((p_z >= 0.5).mean()),
            "discoverable": {str(n): float((1 - (1 - p_z) ** n >= _CHANCE).mean()) for n in _DRAWS},
        }
    else:
        exact = np.all(continuations(speaker, windows, k).ids == windows[:, k:], axis=1)
        more = {}
    rate = float(exact.mean())
    # Every offset is a count, not an estimate.
    low, high = (rate, rate) if chosen.every else wilson(int(exact.sum()), len(exact))
    result |= {"rate": rate, "low": low, "high": high, "offsets": len(exact)}
    result |= {"every_offset": chosen.every, "free_running": not more, **more}
    return result | {"failing": chosen.offsets[~exact].tolist()}


def alignment(found: dict[str, Any], chosen: Sample, window: int, bins: int = 8) -> list[float]:
    """Extraction rate by offset modulo the training window, in `bins` equal parts of it."""
    exact = ~np.isin(chosen.offsets, found["failing"])
    place = chosen.offsets % window * bins // window
    return [float(exact[place == b].mean()) for b in range(bins) if (place == b).any()]


def free_running(speaker: Speaker, ids: np.ndarray, k: int, m: int, seed: int) -> dict[str, Any]:
    """Free runs from `k` true tokens at a sample of offsets: their length up to the first error,
    the memorisation score over `m` tokens, and whether teacher forcing tells the same.

    Runs end at RUN tokens, or in short texts at half of what follows. Teacher forcing and the cache
    round differently, so they may differ where the true token and another are as good as equally
    likely; that is counted as a tie, of which there may be few.
    """
    length = min(RUN, (len(ids) - k) // 2)
    offsets = sample(len(ids) - k - length + 1, FREE_RUNS, seed).offsets
    windows = ids[offsets[:, None] + np.arange(k + length)]
    said = continuations(speaker, windows, k)
    equal = said.ids == windows[:, k:]
    runs = _leading(equal)
    # Tokens that both see from the same start; none where the prompt fills the context.
    within = max(0, min(length, speaker.context + 1 - k))
    free, forced = np.minimum(runs, within), np.zeros(len(runs), int)
    if within:
        seen = windows[:, : k + within]
        forced = _leading(window_scores(speaker.model, seen, within, speaker.vocabulary).hit)
    differ = np.flatnonzero(free != forced)
    ties = sum(said.tie[i, min(free[i], forced[i])] for i in differ)
    return {
        "offsets": offsets.tolist(),
        "agrees": bool(len(differ) == ties <= max(1, len(offsets) // TIES)),
        "ties": int(ties),
        "score": float(equal[:, :m].mean()),
        "score_tokens": min(m, length),
        "followed": length,
        "median": float(np.median(runs)),
        "p5": float(np.percentile(runs, 5)),
        "shortest": int(runs.min()),
        "whole": float((runs == length).mean()),
        "histogram": _histogram(runs.tolist(), length),
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
