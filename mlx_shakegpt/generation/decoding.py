"""Text from a model as a stream: one token a pass, or as many as were guessed right."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import mlx.core as mx
import numpy as np

from ..model.language_model import LanguageModel
from ..settings.sampling import Sampling
from ..text.tokenizer import END_OF_TEXT
from .choosing import Chooser
from .lookup import Lookup
from .window import Window


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
    window, choose = Window(model), Chooser(model, sampling or Sampling())
    history = list(prompt)
    # What is not yet in the window; a prompt that is longer begins with its last half.
    fresh = history[:] if len(history) <= model.context else history[-window.half :]
    if lookup:
        ids = _guessed(window, history, fresh, choose, lookup)
    else:
        ids = _plain(window, history, fresh, choose)
    for token in itertools.islice(ids, max_tokens):
        yield token
        if token == END_OF_TEXT:
            return


def _plain(window: Window, history: list[int], fresh: list[int], choose: Chooser) -> Iterator[int]:
    """One token a pass, for ever."""
    while True:
        yield from _one_a_pass(window, history, fresh, choose)
        window.clear()
        fresh = history[-window.half :]


def _one_a_pass(
    window: Window, history: list[int], fresh: list[int], choose: Chooser,
    lookup: Lookup | None = None,
) -> Iterator[int]:  # fmt: skip
    """One token a pass, until the window is full or the guesses of `lookup` would have been right.
    All tokens but the last are in the window then.

    The next pass starts before its token is read: the device need not wait.
    """
    token = choose.ids(window.read(fresh))
    mx.async_eval(token)
    while True:
        following: mx.array | None = None
        if window.room and not (lookup and lookup.trusted):
            following = choose.ids(window.read(token))
            mx.async_eval(following)
        if lookup:
            lookup.watch(history, int(token))
        history.append(int(token))
        yield history[-1]
        if following is None:
            return
        token = following


def _guessed(
    window: Window, history: list[int], fresh: list[int], choose: Chooser, lookup: Lookup
) -> Iterator[int]:
    """As many tokens a pass as were guessed right, and one more.

    A choice is made after each guessed token as if it were true, and choices hold as far as the
    guesses agree with them: speculative sampling (Leviathan et al., 2023) for guesses that are
    certain, where keeping a choice that agrees is accepting it with its probability. Where greedy
    decoding is close to a tie, a pass without guesses decides, as their rounding differs.
    """
    alone = False
    while True:
        room = window.room - len(fresh)
        if room < 0:
            window.clear()
            fresh = history[-window.half :]
            room = window.room - len(fresh)
        if not (lookup.trusted or alone):
            for token in _one_a_pass(window, history, fresh, choose, lookup):
                fresh = [token]
                yield token
            continue
        guess = [] if alone else lookup.propose(history, room)
        logits = window.read(fresh + guess, len(guess) + 1)
        chosen = np.array(choose.ids(logits)).tolist()
        firm = np.array(choose.firm(logits)) if guess else [True]
        right = 0
        while right < len(guess) and firm[right] and chosen[right] == guess[right]:
            right += 1
        lookup.settle(len(guess), right)
        alone = not firm[right]
        new = guess[:right] if alone else chosen[: right + 1]
        fed = fresh + guess[:right]  # what holds of that which the window has got
        kept = len(fed)
        if alone:  # the last token is fed again, or all of `fresh` where no guess was right
            kept = len(fed) - 1 if right else 0
        fresh = fed[kept:] if alone else new[-1:]
        window.forget(len(guess) + (len(fed) - right) - kept)
        for token in new:
            history.append(token)
            yield token
