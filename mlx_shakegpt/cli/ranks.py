"""How one rank of several speaks: the first as if alone, the others of their own faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..settings.errors import NotReached

LINKS = ("[ring]", "[jaccl]", "[mpi]", "[nccl]", "NCCL", "MPI")  # in MLX's messages about them


class RanksLost(NotReached):
    """Training cannot go on without the other ranks."""


def silent(*_: Any) -> None:
    """Says nothing."""


@contextmanager
def joined(runtime: Any, seconds: float) -> Iterator[Any]:
    """The ranks that this process was launched with, alone or not, while the block runs.

    What all ranks meet with, the first one tells, with its exit code. A later one raises
    SystemExit(0) then, as mlx.launch ends all at once where one fails; and for a fault of its own
    ValueError with its number.
    """
    from ..runtime.ranks import ALONE, SharedError, join

    ranks = ALONE
    try:
        ranks = join(runtime.launch, seconds)
        yield ranks
        ranks.wait()  # rank 0 saves, and nobody is to miss it meanwhile
    except RuntimeError as error:
        if ranks.size == 1 or not any(word in str(error) for word in LINKS):
            raise
        # MLX raises it on whoever waits for a rank that is gone.
        raise RanksLost(
            f"rank {ranks.rank} cannot go on without the others ({error}); the last checkpoint is "
            "whole: start all ranks again with --resume"
        ) from None
    except (ValueError, OSError) as error:
        if not runtime.launch.rank:
            raise
        if isinstance(error, (SharedError, NotReached)):  # all ranks have the same numbers
            raise SystemExit(0) from None
        raise ValueError(f"rank {runtime.launch.rank}: {error}") from None
    finally:
        ranks.close()
