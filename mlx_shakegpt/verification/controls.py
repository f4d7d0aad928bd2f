"""What must fail before anything is certified: a measure that cannot fail proves nothing."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..model.gpt import GPT
from ..model.initial import initialise
from ..model.language_model import LanguageModel
from ..settings.config import CONTROL_RATE
from ..text.lines import newlines
from .extraction import Sample, extraction, sample
from .loss import whole_text_nll
from .repeats import new_windows

K = M = 32
TOKENS, OFFSETS = 2048, 256
PIECE = 16  # tokens of a shuffled line at most: less than the prompt and less than what is asked
LEAKS = 1e-3  # share of the largest logit


def controls(
    model: LanguageModel, ids: np.ndarray, unseen: tuple[str, np.ndarray], seed: int
) -> dict[str, dict[str, Any]]:
    """Loss and extraction of texts and models that must fail; `extracted` says where one did not.

    `unseen` is a text that was not trained, and its name. The controls: that text, the learned one
    with its lines shuffled, and an untrained model of the same shape on the learned text. What they
    repeat of the learned text is left out, as a model that knows it says it.
    """
    head = ids[:TOKENS]
    untrained = LanguageModel(_untrained(model.gpt), model.vocabulary, model.context)
    name, other = unseen
    return {
        name: _figures(model, other, seed, ids),
        "shuffled lines": _figures(model, shuffled(ids, seed)[:TOKENS], seed, ids),
        "untrained model": _figures(untrained, head, seed),
    }


def unseen_text(ids: np.ndarray, before: np.ndarray, after: np.ndarray) -> tuple[str, np.ndarray]:
    """A text that was not trained, of TOKENS at most: of what follows the passage, else of what
    precedes it, the part with the most that the passage `ids` has not; else the passage from its
    last token to its first."""
    for name, text in (("text after the passage", after), ("text before the passage", before)):
        if len(text) < 3 * (K + M):
            continue
        new = np.append(0, np.cumsum(new_windows(text, ids, M)[K:]))
        offsets = min(TOKENS, len(text)) - K - M + 1
        inside = new[offsets:] - new[:-offsets]
        start = int(inside.argmax())
        if inside[start] >= M:
            return name, text[start : start + TOKENS]
    return "the text backwards", ids[::-1][:TOKENS].copy()


def shuffled(ids: np.ndarray, seed: int) -> np.ndarray:
    """The text with its lines, cut into pieces of PIECE tokens at most, in random order."""
    ends = newlines(ids) > 0
    pieces, start = [], 0
    for index in range(len(ids)):
        if ends[index] or index + 1 - start == PIECE:
            pieces.append(ids[start : index + 1])
            start = index + 1
    pieces.append(ids[start:])
    order = np.random.default_rng(seed).permutation(len(pieces))
    return np.concatenate([pieces[i] for i in order])


def leak(model: LanguageModel, ids: np.ndarray) -> float:
    """How much later tokens change earlier logits, as a share of the largest logit.

    0 for a causal model. Exact in floating point where a pass of one shape always computes alike.
    """
    length = min(model.context, len(ids), 128)
    row_ids = model.rows_of(ids[:length])
    largest = 0.0
    plain = np.array(model.gpt(row_ids[None]).astype(mx.float32))[0]
    for cut in sorted({max(1, length * quarter // 4) for quarter in (1, 2, 3)}):
        changed = row_ids.copy()
        changed[cut:] = (row_ids[cut:] + 1) % model.gpt.wte.weight.shape[0]
        got = np.array(model.gpt(changed[None]).astype(mx.float32))[0]
        largest = float(np.maximum(largest, np.abs(got - plain)[:cut].max()))  # NaN stays NaN
    return largest / max(float(np.abs(plain).max()), 1e-9)


def _figures(
    model: LanguageModel, ids: np.ndarray, seed: int, learned: np.ndarray | None = None
) -> dict[str, Any]:
    vocabulary, context = model.vocabulary, min(model.context, len(ids) - 1)
    score = whole_text_nll(model.gpt, ids, context, vocabulary)
    offsets = np.arange(len(ids) - K - M + 1)
    if learned is not None and (new := new_windows(ids, learned, M)[K:]).any():
        offsets = offsets[new]
    chosen = sample(len(offsets), OFFSETS, seed)
    extracted = extraction(model, ids, K, M, Sample(offsets[chosen.offsets], chosen.complete))
    figures = {"nll": score.nll, "accuracy": score.accuracy, "rate": extracted["rate"]}
    return figures | {
        "offsets": extracted["offsets"],
        "extracted": extracted["rate"] > CONTROL_RATE,
    }


def _untrained(model: GPT) -> GPT:
    other = GPT(model.config, model.wte.weight.shape[0])
    other.set_dtype(model.wte.weight.dtype)
    initialise(other, 0)
    return other
