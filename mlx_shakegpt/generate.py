"""Text from a model, one token at a time: KV cache, samplers, and going on past the context.

The cache and the samplers are mlx-lm's. Knows nothing of runs, folders or terminals.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx

from .sampling import Sampling
from .tokenizer import END_OF_TEXT
from .weights import Speaker

Sampler = Callable[[mx.array], mx.array]


def stream(
    speaker: Speaker, prompt: Sequence[int], max_tokens: int, sampling: Sampling | None = None
) -> Iterator[int]:
    """Yields up to `max_tokens` ids after a prompt; ends early at the end-of-text token.

    Where the trained context is full, its last half becomes the beginning of a new one. Raises
    ValueError for an empty prompt or an id outside the vocabulary.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give at least one character to go on from")
    sampling = sampling or Sampling()
    choose = _sampler(speaker, sampling)
    mx.random.seed(sampling.seed)
    history = list(prompt)
    window = speaker.context
    # Rows that are not yet in the cache; a prompt longer than the window starts from its last half.
    fresh = history if len(history) <= window else history[-max(1, window // 2) :]
    cache = prompt_cache(speaker)
    token = choose(_logits(speaker, fresh, cache))
    mx.async_eval(token)
    for count in range(1, max_tokens + 1):
        following: mx.array | None = None
        if count < max_tokens and cache[0].offset < window:
            # The next step starts before this one's token is read: the device need not wait.
            following = choose(_logits(speaker, token, cache))
            mx.async_eval(following)
        history.append(int(token))
        yield history[-1]
        if history[-1] == END_OF_TEXT or count == max_tokens:
            return
        if following is None:
            cache = prompt_cache(speaker)
            following = choose(_logits(speaker, history[-max(1, window // 2) :], cache))
        token = following


def prompt_cache(speaker: Speaker) -> list[Any]:
    """An empty KV cache for each block, of mlx-lm's class."""
    return _mlx_lm("models.cache").make_prompt_cache(speaker.model)


def _logits(speaker: Speaker, ids: Sequence[int] | mx.array, cache: list[Any]) -> mx.array:
    """Logits (1, vocab_size) after some ids, or after one id that is still on the device."""
    if isinstance(ids, mx.array):
        rows = speaker.table[ids] if speaker.vocabulary else ids
    else:
        rows = mx.array(speaker.rows(list(ids)))
    states = speaker.model.hidden(rows.reshape(1, -1), cache)
    return speaker.expand(speaker.model.head(states[:, -1]))


def _sampler(speaker: Speaker, sampling: Sampling) -> Sampler:
    if sampling.temperature == 0:
        return lambda logits: logits.argmax(-1)
    # mlx-lm refuses a top_k that filters nothing.
    top_k = sampling.top_k if sampling.top_k < speaker.model.config.vocab_size else 0
    sample = _mlx_lm("sample_utils").make_sampler(
        temp=sampling.temperature, top_p=sampling.top_p, min_p=sampling.min_p, top_k=top_k
    )

    def choose(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)
        return sample(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    return choose


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
