"""The tokens that a model attends to while it generates, in mlx-lm's KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..model.language_model import LanguageModel
from .mlx_lm_modules import mlx_lm_module


class Window:
    """At most `context` tokens of one text, or of several of one length. Where it is full, a new
    one begins with the last `half` of what was read and said."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self.half = max(1, model.context // 2)
        self.clear()

    def clear(self) -> None:
        """Forgets all."""
        self._cache = prompt_cache(self._model)

    @property
    def room(self) -> int:
        """How many tokens still fit in."""
        return self._model.context - self._cache[0].offset

    def read(self, ids: Sequence[int] | np.ndarray | mx.array, last: int = 1) -> mx.array:
        """Logits after the `last` of some ids, (last, rows), or after each of several texts,
        (S, rows). The ids are (n,) or (S, n); an mx.array of one is still on the device.

        Raises ValueError for an id outside the vocabulary.
        """
        model = self._model
        if isinstance(ids, mx.array):
            row_ids = model.table[ids] if model.vocabulary else ids
        else:
            row_ids = model.gpt.checked_ids(model.rows_of(ids))
        if row_ids.ndim == 1:
            row_ids = row_ids[None]
        states = model.gpt.hidden(row_ids, self._cache, last)
        return model.gpt.head(states.reshape(-1, states.shape[-1]))

    def forget(self, n: int) -> None:
        """Takes the last `n` tokens out again."""
        for layer in self._cache:
            layer.trim(n)


def prompt_cache(model: LanguageModel) -> list[Any]:
    """An empty KV cache for each block, of mlx-lm's class."""
    return mlx_lm_module("models.cache").make_prompt_cache(model.gpt)
