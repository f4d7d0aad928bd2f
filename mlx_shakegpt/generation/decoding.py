"""Text from a model as a stream: KV cache, samplers, guesses, and going on past the context.

The cache and the samplers' filters are mlx-lm's. Knows nothing of runs, folders or terminals.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np

from ..model.language_model import LanguageModel
from ..settings.sampling import Sampling
from ..text.tokenizer import END_OF_TEXT
from .lookup import Lookup

# Two logits this near, as a share of the larger, may change places with the size of a pass.
_CLOSE = {mx.float32: 1e-5, mx.float16: 0.01, mx.bfloat16: 0.05}


def stream(
    model: LanguageModel,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling | None = None,
    lookup: Lookup | None = None,
) -> Iterator[int]:
    """Yields up to `max_tokens` ids after a prompt; ends early at the end-of-text token.

    Where the trained context is full, its last half becomes the beginning of a new one. With
    `lookup`, its guesses are checked many at a time; that changes the speed, but not the ids of
    greedy decoding, nor the distribution of sampled ones. Each stream draws from its own random
    numbers, so the seed decides, whatever else draws meanwhile. Raises ValueError for an empty
    prompt or an id outside the vocabulary.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character to go on from")
    sampling = sampling or Sampling()
    choose = Chooser(model, sampling)
    # Rows that are not yet in the cache; a prompt longer than the window starts from its last half.
    fresh = list(prompt)
    if len(fresh) > model.context:
        fresh = _last_half(model, fresh)
    if lookup:
        ids = _guessed(model, list(prompt), fresh, choose, lookup)
    else:
        ids = _plain(model, list(prompt), fresh, choose)
    for token in itertools.islice(ids, max_tokens):
        yield token
        if token == END_OF_TEXT:
            return


def _plain(
    model: LanguageModel, history: list[int], fresh: list[int], choose: Chooser
) -> Iterator[int]:
    """One token a pass. The next pass starts before its token is read: the device need not wait."""
    cache = prompt_cache(model)
    token = choose.ids(_logits(model, fresh, cache))
    mx.async_eval(token)
    while True:
        following: mx.array | None = None
        if cache[0].offset < model.context:
            following = choose.ids(_logits(model, token, cache))
            mx.async_eval(following)
        history.append(int(token))
        yield history[-1]
        if following is None:
            cache = prompt_cache(model)
            following = choose.ids(_logits(model, _last_half(model, history), cache))
        token = following


def _guessed(
    model: LanguageModel, history: list[int], fresh: list[int], choose: Chooser, lookup: Lookup
) -> Iterator[int]:
    """As many tokens a pass as were guessed right, and one more.

    A choice is made after each guessed token as if it were true, and choices hold as far as the
    guesses agree with them: speculative sampling (Leviathan et al., 2023) for guesses that are
    certain, where keeping a choice that agrees is accepting it with its probability. Where greedy
    decoding is close to a tie, a pass without guesses decides, as their rounding differs.
    """
    cache = prompt_cache(model)
    alone = False
    while True:
        room = model.context - cache[0].offset - len(fresh)
        if room < 0:
            cache = prompt_cache(model)
            fresh = _last_half(model, history)
            room = model.context - len(fresh)
        if not (lookup.trusted or alone):
            for token in _until_trusted(model, history, fresh, choose, lookup, cache):
                fresh = [token]
                yield token
            continue
        guess = [] if alone else lookup.propose(history, room)
        logits = _logits(model, fresh + guess, cache, len(guess) + 1)
        chosen = np.array(choose.ids(logits)).tolist()
        firm = np.array(choose.firm(logits)) if guess else [True]
        right = 0
        while right < len(guess) and firm[right] and chosen[right] == guess[right]:
            right += 1
        lookup.settle(len(guess), right)
        alone = not firm[right]
        new = guess[:right] if alone else chosen[: right + 1]
        fed = fresh + guess[:right]  # what holds of that which the cache has got
        kept = len(fed)
        if alone:  # the last token is fed again, or all of `fresh` where no guess was right
            kept = len(fed) - 1 if right else 0
        fresh = fed[kept:] if alone else new[-1:]
        for layer in cache:
            layer.trim(len(guess) + (len(fed) - right) - kept)
        for token in new:
            history.append(token)
            yield token


def _until_trusted(
    model: LanguageModel, history: list[int], fresh: list[int], choose: Chooser, lookup: Lookup,
    cache: list[Any],
) -> Iterator[int]:  # fmt: skip
    """One token a pass, as in _plain, until guesses would have been right or the cache is full; all
    tokens but the last are in the cache then."""
    token = choose.ids(_logits(model, fresh, cache))
    mx.async_eval(token)
    while True:
        following: mx.array | None = None
        if not lookup.trusted and cache[0].offset < model.context:
            following = choose.ids(_logits(model, token, cache))
            mx.async_eval(following)
        lookup.watch(history, int(token))
        history.append(int(token))
        yield history[-1]
        if following is None:
            return
        token = following


def _last_half(model: LanguageModel, history: list[int]) -> list[int]:
    """What a new window begins with."""
    return history[-max(1, model.context // 2) :]


def prompt_cache(model: LanguageModel) -> list[Any]:
    """An empty KV cache for each block, of mlx-lm's class."""
    return _mlx_lm("models.cache").make_prompt_cache(model.gpt)


def _logits(
    model: LanguageModel, ids: Sequence[int] | mx.array, cache: list[Any], last: int = 1
) -> mx.array:
    """Logits (last, rows) after the last of some ids, or after one that is still on the device."""
    if isinstance(ids, mx.array):
        rows = model.table[ids] if model.vocabulary else ids
    else:
        rows = model.gpt.checked_ids(model.rows_of(ids))
    return model.gpt.head(model.gpt.hidden(rows.reshape(1, -1), cache, last)[0])


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
        filters, limits = _mlx_lm("sample_utils"), self._sampling
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

    def near(self, logits: mx.array, rows: mx.array) -> mx.array:
        """Whether each of some rows (n,) could be the choice with the logits rounded otherwise."""
        return _close(logits, mx.take_along_axis(logits, rows[:, None], -1)[:, 0])


def _close(logits: mx.array, others: mx.array) -> mx.array:
    """Whether the largest of each (n, rows) logits is as large as others (n,) but for rounding."""
    top = logits.max(-1)
    return top - others <= _CLOSE[logits.dtype] * mx.abs(top)


def _mlx_lm(name: str) -> ModuleType:
    """One module of mlx-lm, without running mlx_lm/__init__.py.

    That imports transformers, for seconds, before the first token; these modules need only MLX.
    """
    if "mlx_lm" in sys.modules or f"mlx_lm.{name}" in sys.modules:
        return importlib.import_module(f"mlx_lm.{name}")
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.origin is None:
        raise ImportError("mlx-lm is not installed; install it with: pip install mlx-lm")
    root = Path(spec.origin).parent
    stand_ins = {"mlx_lm": root, "mlx_lm.models": root / "models"}
    for package, folder in stand_ins.items():
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    try:
        return importlib.import_module(f"mlx_lm.{name}")
    finally:
        for package in stand_ins:
            del sys.modules[package]
