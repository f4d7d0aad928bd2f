"""A run's logs, which grow by lines, and are cut where the run goes back."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TextIO

from ..files import write_atomically


def appended(log: Path) -> TextIO:
    return open(log, "a", encoding="utf-8")


def cut_after(log: Path, step: int) -> None:
    """Takes entries of later steps out of a log of JSON lines, and lines that are none."""
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _step(line) <= step]
    if kept != lines:
        write_atomically(log, "".join(kept))


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return math.inf


def cut(log: Path, size: int) -> bool:
    """Cuts a log to its size at a checkpoint; or, where it is shorter, to whole lines."""
    held = log.stat().st_size if log.exists() else 0
    if held > size:
        os.truncate(log, size)
    elif held < size and held:
        os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
    return held >= size
