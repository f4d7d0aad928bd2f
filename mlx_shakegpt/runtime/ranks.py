"""The processes that train one model together: what they exchange, through mx.distributed.

Data parallelism only: each rank holds the whole model. Every collective here is called by all
ranks in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from .launch import Launch
from .watchdog import Watchdog

OPENING_SECONDS = 3600.0  # for a run to be opened on all ranks
PIECE = 32 << 20  # bytes that are exchanged at once, or a little more


class SharedError(ValueError):
    """An error that every rank knows, and rank 0 tells."""


class Ranks:
    """This process, `rank` of `size`. Alone, all that is exchanged is its own."""

    def __init__(
        self, group: mx.distributed.Group | None = None, watchdog: Watchdog | None = None
    ) -> None:
        self.rank, self.size = (group.rank(), group.size()) if group else (0, 1)
        self._group, self._watchdog = group, watchdog

    def tick(self, where: str) -> None:
        """Says that this rank goes on, and with what."""
        if self._watchdog:
            self._watchdog.tick(f"rank {self.rank}, {where}")

    def average(self, gradients: Any) -> Any:
        """The mean of all ranks' gradients, a tree; in pieces of 32 MiB where all have one dtype
        (mlx.nn.average_gradients)."""
        return nn.average_gradients(gradients, self._group) if self._group else gradients

    def average_now(self, gradients: Any) -> Any:
        """What `average` gives, with nothing left to wait for: Metal would end a GPU's work that
        waited some seconds for a late rank."""
        arrays = dict(tree_flatten(gradients))
        pieces = grouped(arrays)
        joined = [mx.concatenate([arrays[name].reshape(-1) for name in names]) for names in pieces]
        result = {}
        for piece, summed in zip(pieces, self.sum_now(joined), strict=True):
            ends = np.cumsum([arrays[name].size for name in piece]).tolist()
            for name, part in zip(piece, mx.split(summed / self.size, ends[:-1]), strict=True):
                result[name] = part.reshape(arrays[name].shape)
        return tree_unflatten(list(result.items()))

    def sum_now(self, arrays: list[mx.array]) -> list[mx.array]:
        """The sums over all ranks of arrays, each of one shape, once they are there."""
        if not self._group:
            return arrays
        sums = [mx.distributed.all_sum(values, group=self._group) for values in arrays]
        mx.eval(sums)
        return sums

    def mean(self, values: mx.array) -> mx.array:
        """The mean of all ranks' arrays of one shape."""
        if not self._group:
            return values
        return mx.distributed.all_sum(values, group=self._group) / self.size

    def concatenate(self, values: mx.array) -> mx.array:
        """All ranks' arrays of one shape, one after another along the first axis."""
        return mx.distributed.all_gather(values, group=self._group) if self._group else values

    def gather(self, content: Any) -> list[Any]:
        """What each rank gives, in their order: anything that JSON can tell."""
        if not self._group:
            return [content]
        own = np.frombuffer(json.dumps(content).encode(), np.uint8)
        lengths = self._now(self.concatenate(mx.array([len(own)], dtype=mx.uint32)))
        longest = int(lengths.max())
        padded = mx.array(np.pad(own, (0, longest - len(own))))
        lines = self._now(self.concatenate(padded)).reshape(self.size, longest)
        return [json.loads(line[:n].tobytes()) for line, n in zip(lines, lengths, strict=True)]

    def from_first(self, tensors: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Rank 0's tensors, bit for bit; those of other ranks do not count."""
        if not self._group:
            return dict(tensors)
        shapes = {name: [*value.shape] for name, value in tensors.items()}
        kinds = {name: str(value.dtype).rpartition(".")[2] for name, value in tensors.items()}
        shapes, kinds = self.gather([shapes, kinds])[0]
        result = {}
        for name, shape in shapes.items():
            dtype = getattr(mx, kinds[name])
            # As bytes: of numbers, -0.0 + 0.0 would be another one.
            held = tensors[name] if self.rank == 0 else mx.zeros(shape, dtype)
            (summed,) = self.sum_now([held.reshape(-1).view(mx.uint8)])
            result[name] = summed.view(dtype).reshape(shape)
            mx.eval(result[name])
            self.tick(f"sharing {name}")
        return result

    def wait(self) -> None:
        """Waits for all ranks to come this far."""
        if self._group:
            mx.eval(self.concatenate(mx.zeros(1)))

    def close(self) -> None:
        """Leaves, without a word to the others."""
        if self._watchdog:
            self._watchdog.close()

    def _now(self, values: mx.array) -> np.ndarray:
        mx.eval(values)
        self.tick("between steps")
        return np.array(values)


def grouped(arrays: Mapping[str, mx.array]) -> list[list[str]]:
    """Names of arrays that are exchanged together, in their order and each time of one dtype."""
    pieces: list[list[str]] = []
    held, dtype = PIECE, None
    for name, values in arrays.items():
        if held >= PIECE or values.dtype != dtype:
            pieces.append([])
            held, dtype = 0, values.dtype
        pieces[-1].append(name)
        held += values.nbytes
    return pieces


ALONE = Ranks()


def join(launch: Launch, seconds: float) -> Ranks:
    """The ranks that a launcher started, once all are there; a rank that then waits for others
    longer than `seconds` ends itself.

    Raises ValueError where they do not find together.
    """
    if launch.backend is None:
        return ALONE
    watchdog = Watchdog(seconds)
    watchdog.tick(f"rank {launch.rank}, joining")
    try:
        group = mx.distributed.init(strict=True, backend=launch.backend)
        if (group.rank(), group.size()) != (launch.rank, launch.size):  # another MPI's launcher
            raise ValueError(f"{launch.backend} made this rank {group.rank()} of {group.size()}")
    except (RuntimeError, ValueError) as error:
        watchdog.close()
        raise ValueError(
            f"the ranks cannot join: {error}; see that all were started at once, that each address "
            "is its own, and that their ports are free (mlx.launch --starting-port)"
        ) from None
    # Rank 0 may fetch a model first, and the others wait for it.
    watchdog.tick(f"rank {launch.rank}, opening the run", max(seconds, OPENING_SECONDS))
    return Ranks(group, watchdog)
