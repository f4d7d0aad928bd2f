"""The texts that a run is asked to learn, read from where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..settings.config import Passage
from ..text import assets
from ..text.collection import joined, text_files
from ..text.corpus import Corpus

Progress = Callable[[str, int, int], None]
Data = str | Sequence[str] | None  # paths of texts, or of folders of texts; None: Tiny Shakespeare


def read_texts(data: Data, passage: Passage, progress: Progress | None) -> list[Corpus]:
    """A passage of a text, or of Tiny Shakespeare, or several whole texts. Raises ValueError or
    OSError where one is not to be had."""
    if not data:
        assets.ensure(assets.TINY_SHAKESPEARE, progress)
        return [Corpus.load(None, passage)]
    files = text_files(data)
    if len(files) > 1 and passage != Passage():
        raise ValueError(
            f"a passage is of one text, and there are {len(files)}; leave `first_line` and "
            "`corpus_tokens` out, or cut the texts"
        )
    return [Corpus.load(file, passage) for file in files]


def read_corpus(data: Data, passage: Passage, progress: Progress | None) -> Corpus:
    """What `read_texts` gives, as one text."""
    texts = read_texts(data, passage, progress)
    return joined(texts) if len(texts) > 1 else texts[0]


def must_be(corpus: Corpus, hash: str | None, data: Data) -> None:
    """Raises ValueError for a text of another sha256 than `hash`, where that is given."""
    if hash not in (None, corpus.sha256):
        raise ValueError(
            f"{data or corpus.name} is not the text that the settings name: its sha256 is "
            f"{corpus.sha256}, not {hash}; put the old text back, or learn this one as `data`"
        )


def with_texts(
    old: list[Corpus], data: Data, passage: Passage, progress: Progress | None
) -> list[Corpus]:
    """Some texts, and those of `data` that are not among them."""
    new = read_texts(data, passage, progress)
    return old + [t for t in new if not any(np.array_equal(t.ids, o.ids) for o in old)]
