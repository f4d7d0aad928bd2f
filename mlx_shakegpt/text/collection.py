"""Several texts that one model learns: which they are, and the one file that they make together."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from ..files import data_dir, sha256, write_atomically
from ..settings.config import Passage
from .corpus import Corpus


def paths_of(data: str | Sequence[str]) -> list[str]:
    """One path, or several, as a list."""
    return [data] if isinstance(data, str) else list(data)


def text_files(data: str | Sequence[str]) -> list[Path]:
    """The files of a path, or of several, to texts, and to folders of texts, which end in .txt.

    Raises ValueError for an empty path, and for a folder that has none.
    """
    files = []
    if not all(paths_of(data)):
        raise ValueError("a path in `data` is empty; leave it out")
    for path in map(Path, paths_of(data)):
        if not path.is_dir():
            files.append(path)
            continue
        there = sorted(f for f in path.glob("*.txt") if f.is_file() and f.name[0] != ".")
        if not there:
            raise ValueError(f"{path} has no text; its texts' names must end in .txt")
        files += there
    return files


def joined(texts: Sequence[Corpus]) -> Corpus:
    """The texts one after the other as one, each on lines of its own; a single one as it is.

    It is kept in the data folder, under a name that tells what is in it. Raises ValueError where a
    passage or a name is there twice, as each has a certificate of its own, or a text has changed.
    """
    if len(texts) == 1:
        return texts[0]
    advice = "give each text once, under a name of its own"
    for one, other in combinations(texts, 2):
        if _as_macos_has_it(one.name) == _as_macos_has_it(other.name):
            raise ValueError(f"two texts have the name {one.name}; {advice}")
        if np.array_equal(one.ids, other.ids):
            raise ValueError(f"the same text is in {one.name} and {other.name}; {advice}")
    contents = (text.excerpt() for text in texts)
    content = b"".join(c if c.endswith(b"\n") else c + b"\n" for c in contents)
    digest = sha256(content)
    file = data_dir() / f"{len(texts)}-texts-{digest[:12]}.txt"
    if not file.is_file() or sha256(file) != digest:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content)
    return Corpus.load(file, Passage())


def _as_macos_has_it(name: str) -> str:
    """A name by which most Macs' file systems tell files apart: neither by case nor by how an
    accented letter is composed."""
    return unicodedata.normalize("NFC", name).casefold()
