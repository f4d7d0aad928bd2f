"""A run's text by its tokens: the line and the characters of each, and what stands in it.

The text is read when it is first asked for; where it is not to be had, `missing` says why.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from ..text.corpus import Corpus
from ..text.lines import lines_of
from ..text.quotations import Source, pieces
from ..text.tokenizer import decode, decode_stream
from .config_file import LearnedText

_CHARACTER = 4  # tokens, or bytes, at most


class Places:
    """The passage that a run learns, from `data` where that is given, else from where the run had
    it."""

    def __init__(self, learned: LearnedText, data: Path | None = None) -> None:
        self.learned, self.data = learned, data

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Source] | str:
        """The ids, (N,), their lines, (N,), and the text to look for quotations in; or what is
        wrong."""
        learned = self.learned
        try:
            corpus = Corpus.load(self.data or learned.file, learned.passage)
        except (OSError, ValueError) as error:
            return f"the text cannot be shown: {error}"
        if corpus.sha256 != learned.sha256:
            return f"the text cannot be shown: {corpus.path or corpus.name} is another one now"
        ids = corpus.ids
        source = Source(decode(ids.tolist()), learned.first_line)
        return ids, lines_of(ids, learned.first_line), source

    @property
    def missing(self) -> str:
        """Why there is no text; empty where there is."""
        return self._loaded if isinstance(self._loaded, str) else ""

    def tokens(self, start: int, stop: int) -> dict[str, Any]:
        """Tokens [start, stop) as far as there are such: `start`, their `text`, each its own, and
        their `line`. A character of several tokens stands in the last of them."""
        if isinstance(self._loaded, str):
            return {"start": start, "text": [], "line": []}
        ids, lines, _ = self._loaded
        before = max(0, start - _CHARACTER)
        decoded = list(decode_stream(ids[before:stop].tolist()))[: max(0, len(ids) - before)]
        text = decoded[start - before : stop - before]
        return {"start": start, "text": text, "line": lines[start:stop].tolist()}

    def marked(self, text: str) -> list[tuple[str, int]]:
        """A text in pieces, each with the line where it stands word for word, or 0."""
        if isinstance(self._loaded, str):
            return [(text, 0)]
        cut = pieces(text, self._loaded[2].spans(text))
        return [(piece, span.line if span else 0) for piece, span in cut]
