"""What a run's newest checkpoint says of progress: the last loss of every token, and the plan.

Reads two small files of a checkpoint, without MLX, while the run may be writing the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files import read_json, sha256

# As training writes them; the tests compare.
CHECKPOINTS, STATE, ORDER, LOSSES, FINAL = (
    "checkpoints", "state.json", "order.safetensors", "seen", "model.safetensors",
)  # fmt: skip


@dataclass(frozen=True)
class CheckpointProgress:
    """`step` and `total` steps of the plan, which `length` (epochs and steps at most) gave; whether
    the text was `known` or the target `reached`; the `losses`, (N,) float32, in nats, and a
    `version` that no other checkpoint has."""

    version: str
    step: int
    total: int
    length: tuple[float, int]
    known: bool
    reached: bool
    losses: np.ndarray


def checkpoints(run: Path) -> list[Path]:
    """The folders of a run's checkpoints, the newest first."""
    folders = [p for p in (run / CHECKPOINTS).glob("[0-9]*") if p.name.isdigit()]
    return sorted(folders, reverse=True)


def newest_progress(run: Path, known: CheckpointProgress | None) -> CheckpointProgress | None:
    """The newest checkpoint that can be read; `known` where that is still it, or where none can.

    A run removes old ones while it is read here, and one may be damaged: the one before counts.
    """
    for folder in checkpoints(run):
        try:
            version = f"{folder.name}-{(folder / STATE).stat().st_mtime_ns:x}"
            return known if known and known.version == version else _read(folder, version)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return known


def _read(folder: Path, version: str) -> CheckpointProgress:
    """A checkpoint's progress. Raises OSError, or ValueError and its like where it is damaged."""
    content = read_json(folder / STATE)
    state, train = content["state"], content["train"]
    file = folder / ORDER
    if sha256(file) != content["sha256"][ORDER]:
        raise ValueError(f"{file} has other bytes than were saved")
    return CheckpointProgress(
        version, int(state["step"]), int(state["total"]),
        (float(train["epochs"]), int(train["steps"])),
        bool(state.get("known")), bool(state.get("reached")), _array(file.read_bytes(), LOSSES),
    )  # fmt: skip


def _array(content: bytes, name: str) -> np.ndarray:
    """A float32 vector out of a safetensors file. Raises ValueError or KeyError for another one."""
    length = int.from_bytes(content[:8], "little")
    header: Mapping[str, Any] = json.loads(content[8 : 8 + length])
    start, stop = header[name]["data_offsets"]
    if header[name]["dtype"] != "F32" or len(header[name]["shape"]) != 1:
        raise ValueError(f"{name} is not a vector of float32")
    return np.frombuffer(content[8 + length + start : 8 + length + stop], "<f4")
