"""The next token out of logits: the likeliest, or one drawn. The filters are mlx-lm's."""

from __future__ import annotations

import math

import mlx.core as mx

from ..model.language_model import LanguageModel
from ..settings.sampling import Sampling
from .mlx_lm_modules import mlx_lm_module

# Two logits this near, as a share of the larger, may change places with the size of a pass.
_CLOSE = {mx.float32: 1e-5, mx.float16: 0.01, mx.bfloat16: 0.05}


class Chooser:
    """How a token is chosen after each of some positions: the likeliest, or one at random."""

    def __init__(self, model: LanguageModel, sampling: Sampling) -> None:
        self.model, self.greedy = model, sampling.temperature == 0
        if self.greedy:
            return
        self._sampling, self._key = sampling, mx.random.key(sampling.seed)

    def ids(self, logits: mx.array) -> mx.array:
        """One id (n,) for each of (n, rows) logits."""
        if self.greedy:
            chosen = logits.argmax(-1)
            return self.model.ids[chosen] if self.model.vocabulary else chosen
        logits = self.model.expand(logits).astype(mx.float32)
        logits = self._filtered(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        # Less the largest, as a low temperature would multiply its rounding, or overflow.
        logits = (logits - logits.max(-1, keepdims=True)) * (1 / self._sampling.temperature)
        self._key, key = mx.random.split(self._key)
        return mx.random.categorical(logits, key=key)

    def _filtered(self, logits: mx.array) -> mx.array:
        """Log-probabilities with -inf for what top_p, min_p and top_k leave out."""
        filters, limits = mlx_lm_module("sample_utils"), self._sampling
        if 0 < limits.top_p < 1:
            logits = filters.apply_top_p(logits, limits.top_p)
        if limits.min_p:
            logits = filters.apply_min_p(logits, limits.min_p)
        if 0 < limits.top_k < logits.shape[-1]:  # mlx-lm refuses one that filters nothing
            logits = filters.apply_top_k(logits, limits.top_k)
        return logits

    def firm(self, logits: mx.array) -> mx.array:
        """Whether each choice (n,) would be the same with the logits rounded otherwise."""
        if not self.greedy:
            return mx.ones(logits.shape[0], mx.bool_)
        first = mx.arange(logits.shape[-1]) == logits.argmax(-1, keepdims=True)
        return ~_close(logits, mx.where(first, -math.inf, logits).max(-1))

    def near(self, logits: mx.array, row_ids: mx.array) -> mx.array:
        """Whether each of some rows (n,) could be the choice with the logits rounded otherwise."""
        return _close(logits, mx.take_along_axis(logits, row_ids[:, None], -1)[:, 0])


def _close(logits: mx.array, others: mx.array) -> mx.array:
    """Whether the largest of each (n, rows) logits is as large as others (n,) but for rounding."""
    top = logits.max(-1)
    return top - others <= _CLOSE[logits.dtype] * mx.abs(top)
