"""The lock of a run's folder, so that one process at a time trains it."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path


def locked(folder: Path) -> ExitStack:
    """Takes a folder's lock, and makes the folder if it is missing. What is returned releases it;
    so does the system when the process ends in any way.

    Raises ValueError where another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process trains run {folder.name!r}; wait for it, or choose another `run`"
            ) from None
        return stack.pop_all()
