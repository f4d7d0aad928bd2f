"""Which parts of a text stand in another word for word, and where."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEAST_WORDS = 5
WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Span:
    """Characters [start, stop) of a text, their number of words, and the line where they stand in
    the other one, for the first time."""

    start: int
    stop: int
    words: int
    line: int


class Source:
    """A text to look for spans in."""

    def __init__(self, text: str, first_line: int = 1) -> None:
        self.text, self.first_line = text, first_line
        self._breaks = [match.start() for match in re.finditer("\n", text)]

    def line(self, position: int) -> int:
        """The line of a character's place."""
        return self.first_line + bisect.bisect_left(self._breaks, position)

    def spans(self, text: str, least: int = LEAST_WORDS) -> list[Span]:
        """The longest spans of whole words, in order and apart, of `least` words or more.

        Words and signs count, and the white space between them must be the same. Each span starts
        at the first word that the one before leaves and is as long as can be.
        """
        words = list(WORD.finditer(text))
        spans, index = [], 0
        while index < len(words):
            place, stop = self._longest(text, words, index, least)
            if place is None:
                index += 1
                continue
            start, end = words[index].start(), words[stop - 1].end()
            spans.append(Span(start, end, stop - index, self.line(place)))
            index = stop
        return spans

    def _longest(
        self, text: str, words: list[re.Match[str]], index: int, least: int
    ) -> tuple[int | None, int]:
        """Where the longest match from a word on stands, and the word after it."""
        start, stop = words[index].start(), index + least
        if stop > len(words):
            return None, index
        place = self._find(text, start, words[stop - 1].end(), 0)
        best = None
        while place is not None:
            best = place
            if stop == len(words):
                break
            # What holds a longer match starts no earlier than where the shorter one stands first.
            place = self._find(text, start, words[stop].end(), place)
            stop += place is not None
        return best, stop

    def _find(self, text: str, start: int, stop: int, origin: int) -> int | None:
        """The first place of whole words text[start:stop] from `origin` on."""
        wanted = text[start:stop]
        place = self.text.find(wanted, origin)
        while place >= 0:
            end = place + len(wanted)
            before, after = self.text[place - 1 : place], self.text[end : end + 1]
            if not (_joins(before, wanted[0]) or _joins(wanted[-1], after)):
                return place
            place = self.text.find(wanted, place + 1)
        return None


def _joins(left: str, right: str) -> bool:
    """Whether two characters belong to one word."""
    return bool(left and right and re.fullmatch(r"\w\w", left[-1] + right[0]))


def pieces(text: str, spans: Sequence[Span]) -> Iterator[tuple[str, Span | None]]:
    """A text cut at its spans: each piece, and the span that it is, if it is one."""
    shown = 0
    for span in spans:
        if shown < span.start:
            yield text[shown : span.start], None
        yield text[span.start : span.stop], span
        shown = span.stop
    if shown < len(text):
        yield text[shown:], None


def longest(spans: Sequence[Span]) -> int:
    """The words of the longest span, 0 where there is none."""
    return max((span.words for span in spans), default=0)


def covered(spans: Sequence[Span], text: str) -> float:
    """Share of a text's characters, white space aside, that stand in spans."""
    total = sum(not c.isspace() for c in text)
    inside = sum(not c.isspace() for span in spans for c in text[span.start : span.stop])
    return inside / total if total else 0.0
