"""A run's logs, which grow by lines, and are cut where the run goes back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO


def appended(log: Path) -> TextIO:
    return open(log, "a", encoding="utf-8")


def cut(log: Path, size: int) -> bool:
    """Cuts a log to its size at a checkpoint; or, where it is shorter, to whole lines."""
    held = log.stat().st_size if log.exists() else 0
    if held > size:
        os.truncate(log, size)
    elif held < size and held:
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
    return held >= size
