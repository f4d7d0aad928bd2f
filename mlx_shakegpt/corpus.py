"""A text as token ids: the passage to learn, the ids it uses, and its windows in training order.

The order is a pure function of (seed, epoch). Knows nothing of models or MLX.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from . import assets, tokenizer
from .config import GPT2_VOCABULARY, Passage
from .files import sha256


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
        return cls(np.array(ids, np.int32), file.name, own_path, sha256(content), passage)

    def around(self) -> tuple[np.ndarray, np.ndarray]:
        """The ids before and after the passage in the same file, which it does not teach."""
        lines = _read(Path(self.path) if self.path else None)[2]
        first = self.passage.first_line - 1
        before = tokenizer.encode("".join(lines[:first]))
        after = tokenizer.encode("".join(lines[first:]))[len(self.ids) :]
        return np.array(before, np.int32), np.array(after, np.int32)


def _read(path: Path | None) -> tuple[Path, bytes, list[str]]:
    """The file of a text, its bytes and its lines. Raises as Corpus.load does."""
    file = path or assets.ensure(assets.TINY_SHAKESPEARE)
    if not file.is_file():
        raise FileNotFoundError(f"no text file {file}; check the path")
    content = file.read_bytes()
    try:
        return file, content, content.decode().splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it, for example with iconv"
        ) from None


@dataclass(frozen=True)
class Vocabulary:
    """The ids that a text has, and one shared row for all that it lacks.

    Ids that never occur get equal gradients, by the symmetry of softmax, so from one common start
    an element-wise optimiser keeps their rows equal for ever: one row with log(absent) added to
    its logit stands for all of them, exactly.
    """

    own: np.ndarray  # (S,) int32, ascending
    total: int = GPT2_VOCABULARY

    @classmethod
    def of(cls, ids: np.ndarray, total: int = GPT2_VOCABULARY) -> Vocabulary:
        return cls(np.unique(ids).astype(np.int32), total)

    @property
    def rows(self) -> int:
        """Rows of the closed embedding: S own ones and, where an id is absent, the shared one."""
        return len(self.own) + (self.absent > 0)

    @property
    def absent(self) -> int:
        """Ids that share the last row."""
        return self.total - len(self.own)

    @cached_property
    def table(self) -> np.ndarray:
        """Row of every id, (total,) int32; absent ids have the shared row, the last."""
        table = np.full(self.total, len(self.own), np.int32)
        table[self.own] = np.arange(len(self.own), dtype=np.int32)
        return table

    def close(self, ids: np.ndarray) -> np.ndarray:
        """Row of each id."""
        return self.table[ids]


@dataclass(frozen=True)
class Batch:
    """Windows of one step; `weights` is 0 where a target is trained by another window."""

    inputs: np.ndarray  # (B, T) int32
    targets: np.ndarray  # (B, T) int32
    weights: np.ndarray  # (B, T) float32
    epoch: float  # passes over the text when this batch is done


class Windows:
    """The windows of a text as an endless stream, in which every target comes once an epoch.

    With `jitter`, each epoch cuts the text at a fresh offset and shuffles: the text is learned,
    not its alignment. Else windows lie end to end from the first token, in text order, and what
    remains behind the last whole one is left out.
    """

    def __init__(
        self,
        ids: np.ndarray,
        batch_size: int,
        context: int,
        seed: int,
        jitter: bool,
        stream: int = 0,
    ) -> None:
        """`stream` tells apart the orders of several streams of one run."""
        if len(ids) < context + 1:
            raise ValueError(
                f"the text has {len(ids)} tokens, fewer than one window of {context} and its next "
                f"token; use --context {max(len(ids) - 1, 2)} or less, or a longer text"
            )
        self.ids, self.batch_size, self.context = ids, batch_size, context
        self.seed, self.jitter, self.stream = seed, jitter, stream
        self._starts = [0]  # number of windows before each epoch
        self._epochs: dict[int, np.ndarray] = {}

    def epoch_windows(self, epoch: int) -> np.ndarray:
        """(n, 3): start of each window, and the span of its positions that are trained."""
        T, last = self.context, len(self.ids) - 1
        if not self.jitter:
            starts = np.arange(last // T) * T
            return np.stack([starts, np.zeros_like(starts), np.full_like(starts, T)], 1)
        rng = np.random.default_rng([self.seed, self.stream, epoch])
        cut = int(rng.integers(1, T + 1))
        # The last one runs over the end, so that windows begin at every place of the text alike.
        windows = [(0, 0, cut)] + [(s, 0, min(T, last - s)) for s in range(cut, last, T)]
        return rng.permutation(np.array(windows))

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        first = step * self.batch_size
        rows = []
        for index in range(first, first + self.batch_size):
            epoch = self._epoch_of(index)
            rows.append(self._cached(epoch)[index - self._starts[epoch]])
        start, low, high = np.array(rows).T[:, :, None]
        positions = np.arange(self.context)[None]
        inside = (positions >= low) & (positions < high)
        last = len(self.ids) - 1
        return Batch(
            self.ids[np.minimum(start + positions, last)],
            self.ids[np.minimum(start + positions + 1, last)],
            inside.astype(np.float32),
            self.epoch(step),
        )

    def epoch(self, step: int) -> float:
        """Passes over the text when a step, counted from 0, is done."""
        index = (step + 1) * self.batch_size - 1
        epoch = self._epoch_of(index)
        before, after = self._starts[epoch : epoch + 2]
        return epoch + (index + 1 - before) / (after - before)

    def steps(self, epochs: float) -> int:
        """Steps that `epochs` passes over the text take, at least one."""
        whole = int(epochs)
        self._epoch_of_start(whole + 1)
        windows = self._starts[whole]
        windows += round((epochs - whole) * (self._starts[whole + 1] - windows))
        return max(1, -(-windows // self.batch_size))

    def _epoch_of(self, index: int) -> int:
        while self._starts[-1] <= index:
            self._epoch_of_start(len(self._starts))
        return bisect_right(self._starts, index) - 1

    def _epoch_of_start(self, epoch: int) -> None:
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + len(self._cached(len(self._starts) - 1)))

    def _cached(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            while len(self._epochs) > 1:
                self._epochs.pop(next(iter(self._epochs)))
            self._epochs[epoch] = self.epoch_windows(epoch)
        return self._epochs[epoch]
