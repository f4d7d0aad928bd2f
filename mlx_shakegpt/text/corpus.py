"""A text as token ids: the passage to learn, and the ids it uses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import as_text, sha256
from ..settings.config import Passage
from . import assets, tokenizer


@dataclass(frozen=True)
class Corpus:
    """A passage of a text: its ids, and the source's name, path and hash to find it again."""

    ids: np.ndarray  # (N,) int32
    name: str
    path: str | None  # None: Tiny Shakespeare
    sha256: str
    passage: Passage

    @classmethod
    def load(cls, path: Path | None, passage: Passage) -> Corpus:
        """Reads Tiny Shakespeare, or the UTF-8 text at `path`.

        Raises FileNotFoundError, or ValueError for a text that is empty, not UTF-8 or too short
        for the passage.
        """
        file, content, lines = _read(path)
        if passage.first_line > max(len(lines), 1):
            raise ValueError(
                f"{file} has {len(lines)} lines; the passage cannot start at line "
                f"{passage.first_line}"
            )
        ids = tokenizer.encode("".join(lines[passage.first_line - 1 :]))
        if not ids:
            raise ValueError(f"{file} is empty; give a text to learn")
        if passage.tokens > len(ids):
            raise ValueError(
                f"{file} has {len(ids)} tokens from line {passage.first_line} on; "
                f"the passage cannot have {passage.tokens}"
            )
        ids = ids[: passage.tokens or None]
        own_path = str(path.resolve()) if path else None
        name = as_text(file.name)
        return cls(np.array(ids, np.int32), name, own_path, sha256(content), passage)

    @property
    def description(self) -> dict[str, Any]:
        """What files say of the passage: name, sha256, first_line and tokens."""
        source = {"name": self.name, "sha256": self.sha256}
        return source | {"first_line": self.passage.first_line, "tokens": len(self.ids)}

    def around(self, passages: Sequence[Passage] = ()) -> tuple[np.ndarray, np.ndarray]:
        """The ids before the first and after the last of some passages of the same file, else of
        this one. Raises ValueError where the file has changed."""
        _, content, lines = _read(Path(self.path) if self.path else None)
        if sha256(content) != self.sha256:
            raise ValueError(
                f"{self.path or self.name} was written anew since it was read; run this again"
            )
        passages = passages or (self.passage,)
        first = min(passage.first_line for passage in passages) - 1
        before = tokenizer.encode("".join(lines[:first]))
        rests = []
        for passage in passages:
            rest = tokenizer.encode("".join(lines[passage.first_line - 1 :]))
            rests.append(rest[passage.tokens or len(rest) :])
        return np.array(before, np.int32), np.array(min(rests, key=len), np.int32)

    def excerpt(self) -> bytes:
        """What has to be known of the file to have the passage: the whole file where it is the
        passage, else the shortest text whose first tokens are the passage's. It may end some
        characters after the last token, whose bounds depend on what follows.

        Raises ValueError where the file has changed.
        """
        _, content, lines = _read(Path(self.path) if self.path else None)
        first, ids = self.passage.first_line - 1, self.ids.tolist()
        rest = "".join(lines[first:]).encode()
        if not first and tokenizer.encode(rest.decode()) == ids:
            return content
        shortest = sum(map(len, tokenizer.gpt2().decode_tokens_bytes(ids)))
        for size in range(shortest, len(rest) + 1):
            with suppress(UnicodeDecodeError):  # within a character
                if tokenizer.encode(rest[:size].decode())[: len(ids)] == ids:
                    return rest[:size]
        raise ValueError(
            f"{self.path or self.name} was written anew since it was read; run this again"
        )


def _read(path: Path | None) -> tuple[Path, bytes, list[str]]:
    """The file of a text, its bytes and its lines, which only "\n" ends, as in editors.

    Raises as Corpus.load does.
    """
    file = path or assets.ensure(assets.TINY_SHAKESPEARE)
    if not file.is_file():
        raise FileNotFoundError(f"no text file {file}; check the path")
    content = file.read_bytes()
    try:
        return file, content, list(io.StringIO(content.decode(), newline="\n"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it, for example with iconv"
        ) from None
