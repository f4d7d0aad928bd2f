"""Every token's last training loss, over the steps of a run: a compact file that grows with it.

At most MOST moments are kept: where they are more, every other one goes and the next ones lie twice
as far apart. No step depends on it, and nothing about it ends a training.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import write_atomically
from .loss_levels import KNOWN, levels_of

TOKEN_LOSSES = "token_losses.bin"
MOST = 64

_HEAD = struct.Struct("<4sIII")  # magic, version, tokens, steps between moments
_MAGIC, _VERSION = b"SGTL", 1


@dataclass(frozen=True)
class Moment:
    """The losses after a step: its place in epochs, the share of the tokens that were known, and
    each token's level, (N,) uint8."""

    step: int
    epoch: float
    known: float
    levels: np.ndarray


class TokenLossFile:
    """The file of a run of `n` tokens, while it is written."""

    def __init__(self, file: Path, n: int, step: int, tell: Callable[[str], None]) -> None:
        """Goes on after `step`: what comes later in the file, or is damaged, is cut off."""
        self._file, self._n, self._tell = file, n, tell
        self._row = _row(n)
        self._every, self._moments, self._failed = 1, 0, False
        self._try(lambda: self._open(step))

    def note(self, step: int, epoch: float, nll: np.ndarray, last: bool = False) -> None:
        """Takes the losses, (N,) in nats, after a step, where it is due or the `last` one. What
        cannot be written is said once, and the file ends there."""
        if not self._failed and (last or step % self._every == 0):
            self._try(lambda: self._append(step, epoch, nll))

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (OSError, ValueError) as error:
            self._failed = True
            self._tell(f"Warning: no film of this run: {error}; training goes on without.")

    def _open(self, step: int) -> None:
        if not self._file.exists():
            return
        try:
            every, rows = _read(self._file)
        except ValueError:
            every, rows = 1, np.empty(0, self._row)
        if rows.dtype != self._row:  # of another text
            every, rows = 1, np.empty(0, self._row)
        self._every = every
        self._write(rows[rows["step"] <= step])

    def _append(self, step: int, epoch: float, nll: np.ndarray) -> None:
        row = np.zeros(1, self._row)
        row["step"], row["epoch"], row["known"] = step, epoch, np.count_nonzero(nll < KNOWN)
        row["levels"] = levels_of(nll)
        row["crc"] = zlib.crc32(row.tobytes()[:-4])
        if not self._file.exists():
            self._write(row[:0])
        with open(self._file, "ab") as file:
            file.write(row.tobytes())
        self._moments += 1
        if self._moments >= MOST:
            rows = _read(self._file)[1]
            while len(rows) >= MOST:
                self._every *= 2
                rows = rows[rows["step"] % self._every == 0]
            self._write(rows)

    def _write(self, rows: np.ndarray) -> None:
        """Writes the file anew."""
        head = _HEAD.pack(_MAGIC, _VERSION, self._n, self._every)
        write_atomically(self._file, head + rows.tobytes())
        self._moments = len(rows)


def read_token_losses(file: Path) -> list[Moment]:
    """The moments in a run's file, in order. Raises FileNotFoundError, or ValueError where the
    file is damaged from its start."""
    rows = _read(file)[1]
    return [
        Moment(
            int(row["step"]),
            float(row["epoch"]),
            float(row["known"] / max(1, len(row["levels"]) - 1)),
            row["levels"],
        )
        for row in rows
    ]


def _row(n: int) -> np.dtype:
    return np.dtype(
        [
            ("step", "<u4"),
            ("known", "<u4"),
            ("epoch", "<f8"),
            ("levels", "u1", (n,)),
            ("crc", "<u4"),
        ]
    )


def _read(file: Path) -> tuple[int, np.ndarray]:
    """Steps between moments, and the sound rows from the start on. Raises ValueError for another
    file."""
    data = file.read_bytes()
    if len(data) < _HEAD.size:
        raise ValueError(f"{file} is damaged: it has no head")
    magic, version, n, every = _HEAD.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION) or not n or not 0 < every < 2**31:
        raise ValueError(f"{file} is damaged: it holds no losses of tokens")
    row = _row(n)
    rows = np.frombuffer(data, row, (len(data) - _HEAD.size) // row.itemsize, _HEAD.size)
    sound = 0
    for one in rows:
        if zlib.crc32(one.tobytes()[:-4]) != one["crc"]:
            break
        sound += 1
    return every, rows[:sound]
