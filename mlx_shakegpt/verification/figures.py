"""Measures how well a model knows a text, and says whether that is proven."""

from __future__ import annotations

import bz2
import lzma
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..model.language_model import LanguageModel
from ..settings.config import VerifyConfig
from ..text.tokenizer import gpt2
from .controls import LEAKS, controls, leak, unseen_text
from .extraction import LENGTHS, alignment, extraction, free_running, sample, wilson
from .loss import Scores, token_scores
from .repeats import Repeats
from .windows import window_floor

# Is told the name of a part of a measurement, and which share of it is done.
PartProgress = Callable[[str, float], None]

LEAST_TOKENS = sum(LENGTHS[-1]) + 32  # a sonnet has some 160; all of its offsets are measured
LEAST_CLEAR = 0.5  # share of offsets with a single answer, and not one to copy from the prompt
# Nats a token above the floor: with more, sampling errs more often than not at each token, which no
# model does whose likeliest token is the right one nearly everywhere.
LARGEST_EXCESS = math.log(2)


@dataclass(frozen=True)
class Text:
    """The learned ids, and those before and after them in the same file."""

    ids: np.ndarray
    before: np.ndarray
    after: np.ndarray


def too_short(ids: np.ndarray) -> str:
    """Why a text is too short to be verified; empty where it is not."""
    if len(ids) >= LEAST_TOKENS:
        return ""
    return f"the text has {len(ids)} tokens; {LEAST_TOKENS} or more are needed to prove anything"


def measure(
    model: LanguageModel,
    text: Text,
    settings: VerifyConfig,
    seed: int,
    progress: PartProgress = lambda part, share: None,
) -> tuple[dict[str, Any], Scores]:
    """All figures by their JSON names, `certified` and `reasons` among them, and the text's scores.

    `seed` decides the samples and the controls: whoever made the model should not have chosen it.
    Calls `progress` with the name of a part and the share of it that is done, 1 at its end; the
    loss, which takes longest, comes last. Raises ValueError for a text that is too short to tell
    anything.
    """
    ids = text.ids
    if reason := too_short(ids):
        raise ValueError(reason)
    context = min(model.context, len(ids) - 1)
    rates: list[dict[str, Any]] = []
    measured: dict[str, Any] = {}
    for k, m in LENGTHS:
        n = len(ids) - k - m + 1
        chosen = sample(n, settings.samples or n, seed, settings.all_up_to)
        name = f"em@{k},{m}"
        rates.append(extraction(model, ids, k, m, chosen, partial(progress, name)))
        if k == LENGTHS[0][0]:
            measured["alignment"] = alignment(rates[0], chosen, context)
    measured["extraction"] = rates
    runs = free_running(model, ids, *LENGTHS[0], seed)
    measured |= {"free_running": runs, "free_running_agrees": runs["agrees"]}
    progress("free running", 1)
    unseen = unseen_text(ids, text.before, text.after)
    measured["controls"] = controls(model, ids, unseen, seed)
    measured["leak"] = leak(model, ids)
    progress("controls", 1)
    scores = token_scores(model.gpt, ids, context, model.vocabulary, partial(progress, "loss"))
    figures = loss_figures(ids, scores, context) | measured
    reasons = objections(figures, settings.require)
    verdict = {
        "seed": seed,
        "certified": not reasons,
        "require": settings.require,
        "reasons": reasons,
    }
    return figures | verdict, scores


def objections(figures: dict[str, Any], require: float) -> list[str]:
    """Why nothing is certified; empty where it is."""
    reasons = []
    for e in figures["extraction"]:
        name, rate, n = f"em@{e['k']},{e['m']}", e["rate"], e["offsets"]
        if not rate >= require:
            reasons.append(f"{name} is {rate:.4f}, below {require:g}")
        elif not e["low"] >= require:
            reasons.append(
                f"{name} is {rate:.4f} of {n:,} offsets, and so perhaps {e['low']:.4f} of all, "
                f"below {require:g}; take more samples"
            )
        if clear_share(e) < LEAST_CLEAR:
            reasons.append(
                f"{name} has a single answer, and one that cannot be copied, at "
                f"{clear_share(e):.4f} of the text's offsets, below {LEAST_CLEAR:g}: the text "
                "repeats itself too much"
            )
    reasons += _contradictions(figures, require)
    reasons += [
        f"the control “{name}” passed: {c['rate']:.4f} of it was extracted"
        + ("; if it was learned too, verify a passage with both" if "passage" in name else "")
        for name, c in figures["controls"].items()
        if c["extracted"]
    ]
    if not figures["free_running_agrees"]:
        reasons.append("free runs disagree with teacher forcing: the mask may leak")
    if not figures["leak"] <= LEAKS:
        reasons.append(
            f"later tokens change earlier logits by {figures['leak']:.2g} of the largest"
        )
    return reasons


def clear_share(rate: dict[str, Any]) -> float:
    """Share of a text's offsets whose k tokens have a single continuation, of an `extraction`, and
    not the one that goes on with their own period."""
    return 1 - (rate["text_ambiguous"] + rate["text_periodic"]) / rate["text_offsets"]


def _contradictions(figures: dict[str, Any], require: float) -> list[str]:
    """Figures that a model with the required extraction rate cannot have."""
    reasons, runs = [], figures["free_running"]
    if not figures["determined_accuracy"] >= require:
        reasons.append(
            f"of the tokens that those before them determine, {figures['determined_accuracy']:.4f} "
            f"are the likeliest, below {require:g}"
        )
    if not figures["excess"] <= LARGEST_EXCESS:
        reasons.append(f"the loss is {figures['excess']:.4f} nats a token above its floor")
    # A run is as many extractions one after the other.
    least = require ** (runs["followed"] / LENGTHS[0][1])
    n = len(runs["offsets"])
    if not wilson(round(runs["right"] * n), n)[1] >= least:
        reasons.append(
            f"{runs['right']:.4f} of the free runs stay right for {runs['followed']} tokens; "
            f"a rate of {require:g} predicts {least:.4f}"
        )
    return reasons


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
        **_determined(ids, scores, context),
        "tokens": len(ids),
        "bits": bits,
        "bits_per_byte": bits / scored,
        "bits_bz2": 8 * len(bz2.compress(text, 9)),
        "bits_xz": 8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }


def _determined(ids: np.ndarray, scores: Scores, context: int) -> dict[str, Any]:
    """The accuracy on tokens that the text always has after the same tokens, so that a perfect
    memoriser errs on none: as many as every window has before a token that it scores."""
    before = max(1, min(LENGTHS[0][0], context // 2))
    hit = scores.hit[before - 1 :][~Repeats.of(ids, before, 1).ambiguous]
    return {
        "determined": len(hit),
        "determined_accuracy": float(hit.mean()) if len(hit) else 0.0,
    }
