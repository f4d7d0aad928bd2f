"""Measures how well a model knows a text, and says whether that is proven.

Knows nothing of files, hashes or terminals.
"""

from __future__ import annotations

import bz2
import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import VerifyConfig
from ..tokenizer import gpt2
from ..weights import Speaker
from .controls import LEAKS, controls, leak, unseen_text
from .extraction import (
    LENGTHS,
    Sample,
    alignment,
    ambiguous,
    extraction,
    free_running,
    sample,
)
from .nll import Scores, token_scores, window_floor

LEAST_TOKENS = 2 * sum(LENGTHS[-1])


@dataclass(frozen=True)
class Text:
    """The learned ids, and those before and after them in the same file."""

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray


def verify(
    speaker: Speaker,
    text: Text,
    settings: VerifyConfig,
    done: Callable[[str], None] = lambda part: None,
) -> tuple[dict[str, Any], Scores]:
    """All figures by their JSON names, `certified` and `reasons` among them, and the text's scores.

    Calls `done` with the name of each part that is finished. Raises ValueError for a text that is
    too short to tell anything.
    """
    ids = text.ids
    if len(ids) < LEAST_TOKENS:
        raise ValueError(
            f"the text has {len(ids)} tokens; {LEAST_TOKENS} or more are needed to prove anything"
        )
    context = min(speaker.context, len(ids) - 1)
    scores = token_scores(speaker.model, ids, context, speaker.vocabulary)
    figures = loss_figures(ids, scores, context)
    done("loss")
    rates = []
    for k, m in LENGTHS:
        unclear = ambiguous(ids, k, m)
        chosen = _chosen(np.flatnonzero(~unclear), settings)
        left_out = {"ambiguous": int(unclear.sum())}
        rates.append(extraction(speaker, ids, k, m, chosen) | left_out)
        done(f"em@{k},{m}")
        if k == LENGTHS[0][0]:
            figures["alignment"] = alignment(rates[0], chosen, context)
    figures |= {"extraction": rates}
    runs = free_running(speaker, ids, *LENGTHS[0], settings.seed)
    figures |= {"free_running": runs, "free_running_agrees": runs["agrees"]}
    done("free running")
    unseen = unseen_text(ids, text.before, text.after)
    figures["controls"] = controls(speaker, ids, unseen, settings.seed)
    figures["leak"] = leak(speaker, ids)
    done("controls")
    reasons = objections(figures, settings.require)
    verdict = {"certified": not reasons, "require": settings.require, "reasons": reasons}
    return figures | verdict, scores


def _chosen(offsets: np.ndarray, settings: VerifyConfig) -> Sample:
    """Those of some offsets that are measured."""
    if not len(offsets):
        raise ValueError(
            "all places of the text are alike; give a text that does not repeat itself"
        )
    n = len(offsets)
    chosen = sample(n, settings.samples or n, settings.seed, settings.every)
    return Sample(offsets[chosen.offsets], chosen.every)


def objections(figures: dict[str, Any], require: float) -> list[str]:
    """Why nothing is certified; empty where it is."""
    found = []
    for e in figures["extraction"]:
        name, rate, n = f"em@{e['k']},{e['m']}", e["rate"], e["offsets"]
        if not rate >= require:
            found.append(f"{name} is {rate:.4f}, below {require:g}")
        elif not e["low"] >= require:
            found.append(
                f"{name} is {rate:.4f} of {n:,} offsets, and so perhaps {e['low']:.4f} of all, "
                f"below {require:g}; give more --samples"
            )
    found += [
        f"the control “{name}” passed: {c['rate']:.4f} of it was extracted"
        for name, c in figures["controls"].items()
        if c["passed"]
    ]
    if not figures["free_running_agrees"]:
        found.append("free-running does not say what teacher forcing tells: the mask may leak")
    if not figures["leak"] <= LEAKS:
        found.append(f"later tokens change earlier logits by {figures['leak']:.2g} of the largest")
    return found


def loss_figures(ids: np.ndarray, scores: Scores, context: int) -> dict[str, Any]:
    """Loss, its floor and excess in nats a token; bits a byte; all bits beside bz2 and xz."""
    nll = float(scores.nll.mean(dtype=np.float64))
    floor = window_floor(ids, context)
    text = b"".join(gpt2().decode_tokens_bytes(ids.tolist()))
    scored = sum(map(len, gpt2().decode_tokens_bytes(ids[1:].tolist())))
    bits = nll * len(scores.nll) / math.log(2)
    return {
        "nll": nll,
        "floor": floor,
        "excess": nll - floor,
        "accuracy": float(scores.hit.mean()),
        "tokens": len(ids),
        "bits": bits,
        "bits_per_byte": bits / scored,
        "bits_bz2": 8 * len(bz2.compress(text, 9)),
        "bits_xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
