"""The texts that a run is asked to learn, read from where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..settings.config import Passage
from ..text import assets
from ..text.collection import joined, paths_of, text_files
from ..text.corpus import Corpus

Progress = Callable[[str, int, int], None]
Data = str | Sequence[str] | None  # paths of texts, or of folders of texts; None: Tiny Shakespeare


def read_texts(data: Data, passage: Passage, progress: Progress | None) -> list[Corpus]:
    """A passage of a text, or of Tiny Shakespeare, or several whole texts. Raises ValueError or
    OSError where one is not to be had."""
    if data is None:
        assets.ensure(assets.TINY_SHAKESPEARE, progress)
        return [Corpus.load(None, passage)]
    files = text_files(data)
    if not files:
        raise ValueError("`data` names no text; leave it out to learn Tiny Shakespeare")
    if len(files) > 1 and passage != Passage():
        raise ValueError(
            f"a passage is of one text, and there are {len(files)}; leave `first_line` and "
            "`corpus_tokens` out, or cut the texts"
        )
    return [Corpus.load(file, passage) for file in files]


def read_corpus(data: Data, passage: Passage, progress: Progress | None) -> Corpus:
    """What `read_texts` gives, as one text."""
    return joined(read_texts(data, passage, progress))


def check_hashes(texts: Sequence[Corpus], hashes: str | Sequence[str] | None) -> None:
    """Raises ValueError for texts of other sha256 than `hashes`, or than that one, where any are
    given."""
    if hashes is None:
        return
    if len(texts) != len(paths_of(hashes)):
        raise ValueError(
            f"the settings name {len(paths_of(hashes))} texts by their sha256, and there are "
            f"{len(texts)}; put the old texts back, or learn these as `data`"
        )
    for text, hash in zip(texts, paths_of(hashes), strict=True):
        if text.sha256 != hash:
            raise ValueError(
                f"{text.path or text.name} is not the text that the settings name: its sha256 is "
                f"{text.sha256}, not {hash}; put the old text back, or learn this one as `data`"
            )


def merge_texts(old: Sequence[Corpus], new: Sequence[Corpus]) -> list[Corpus]:
    """Old texts, and those new ones that are not among them."""
    known = [text.ids for text in old]
    return [*old, *(t for t in new if not any(np.array_equal(t.ids, ids) for ids in known))]
