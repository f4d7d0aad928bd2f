"""A model says a text from its beginning, beside the original, with its errors marked.

Nothing is looked up: what is said comes from the model alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..generation.batched import corrected_recital, recital
from ..model.language_model import LanguageModel
from ..text.tokenizer import decode, decode_stream, gpt2

CORRECT, STOP, GO_ON = "correct", "stop", "go-on"


@dataclass(frozen=True)
class Piece:
    """A piece of what was said; if `wrong`, with what would have been right."""

    text: str
    wrong: bool = False
    right: str = ""


class Recital:
    """One recital of ids (N,) after the first `k`; `on_error` is CORRECT, STOP or GO_ON."""

    def __init__(self, ids: np.ndarray, k: int, tokens: int | None, on_error: str) -> None:
        """Raises ValueError where nothing is left to be said."""
        if len(ids) <= k:
            raise ValueError(
                f"{len(ids)} tokens are left from there on; {k} of them would be the prompt; "
                "start earlier, or give a smaller `prompt_tokens`"
            )
        self._ids = ids[: k + tokens] if tokens else ids
        self._k, self._on_error = k, on_error
        self.prompt = ids[:k].tolist()
        self.tokens: list[int] = []

    @property
    def count(self) -> int:
        """Tokens said."""
        return len(self.tokens)

    @property
    def share(self) -> float:
        """Of what is to be said, the share that was."""
        return self.count / (len(self._ids) - self._k)

    def pieces(self, model: LanguageModel) -> Iterator[Piece]:
        """What is said, piece by piece; whole characters, right or wrong."""
        for right, group in itertools.groupby(self._judged(model), key=lambda judged: judged[2]):
            if right:
                yield from (Piece(text) for text in decode_stream(t for _, t, _ in group) if text)
                continue
            places, wrong, _ = zip(*group, strict=True)
            shown = decode(self._ids[list(places)].tolist()) if self._on_error != GO_ON else ""
            yield Piece(decode(wrong), True, shown)

    def _judged(self, model: LanguageModel) -> Iterator[tuple[int, int, bool]]:
        """Place, token said there, and whether it is right."""
        say = corrected_recital if self._on_error == CORRECT else recital
        stream = say(model, self._ids, self._k)
        for place, token in enumerate(stream, self._k):
            self.tokens.append(token)
            right = token == self._ids[place]
            yield place, token, bool(right)
            if not right and self._on_error == STOP:
                return

    def words(self) -> int:
        """Words of what was said."""
        return len(decode(self.tokens).split())

    def figures(self) -> dict[str, Any]:
        """How well it went. `likeness` is 1 − Levenshtein / length, on bytes, of what was said
        against what should have been."""
        from rapidfuzz.distance import Levenshtein

        expected = self._ids[self._k :]
        true = expected[: self.count]
        wrong = np.array(self.tokens) != true
        first = int(wrong.argmax()) if wrong.any() else self.count
        recited, original = (
            b"".join(gpt2().decode_tokens_bytes(list(x))) for x in (self.tokens, true)
        )
        # Without a guess of the distance, time grows with the square of the text.
        guess = 32 + 8 * int(wrong.sum())
        distance = Levenshtein.distance(recited, original, score_hint=guess)
        return {
            "tokens": self.count,
            "expected": len(expected),
            "wrong": int(wrong.sum()),
            "first_error": first if wrong.any() else None,
            "before_first_error": first / len(expected),
            "re_prompts": int(wrong.sum()) if self._on_error == CORRECT else 0,
            "likeness": 1 - distance / max(len(recited), len(original)),
        }
