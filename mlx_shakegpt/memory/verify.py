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
from .extraction import LENGTHS, alignment, extraction, free_running, sample, wilson
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
        offsets = len(ids) - k - m + 1
        chosen = sample(offsets, settings.samples or offsets, settings.seed, settings.every)
        rates.append(extraction(speaker, ids, k, m, chosen))
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
    return figures | {"certified": not reasons, "reasons": reasons}, scores


def objections(figures: dict[str, Any], require: float) -> list[str]:
    """Why nothing is certified; empty where it is."""
    found = [
        f"em@{e['k']},{e['m']} is {e['rate']:.4f}, below {require:g}"
        for e in figures["extraction"]
        if not e["rate"] >= require
    ]
    found += [
        f"em@{e['k']},{e['m']} was measured at {e['offsets']:,} offsets: were all of them right, "
        f"the rate could still be below {require:g}; give more --samples"
        for e in figures["extraction"]
        if not e["every_offset"] and wilson(e["offsets"], e["offsets"])[0] < require
    ]
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
