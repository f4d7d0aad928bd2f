"""Safetensors files: written whole or not at all, and checked before MLX reads them."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..files import atomic_path

LARGEST_EXTENT, LARGEST_FILE = 2**31 - 1, 2**63 - 1  # of MLX's integers
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "U8": 1, "BOOL": 1}
_OF_THE_GPU = ("[METAL]", "[malloc]", "[metal::", "cuda")  # errors that come up while it is read
_BYTES |= {"U64": 8, "I16": 2, "U16": 2, "I8": 1}


def save_tensors(path: Path, tensors: Mapping[str, mx.array]) -> None:
    """Writes a safetensors file whole or not at all. Raises OSError where the disk is full."""
    with atomic_path(path) as temporary:
        try:
            mx.save_safetensors(str(temporary), dict(tensors), metadata={"format": "pt"})
            # MLX does not notice a disk that fills up while it writes.
            check_tensors(temporary)
        except (RuntimeError, ValueError) as error:
            if str(error).startswith(_OF_THE_GPU):
                raise
            raise OSError(errno.ENOSPC, f"cannot write it whole ({error})", str(path)) from None


def load_tensors(path: Path) -> dict[str, mx.array]:
    """The tensors of a safetensors file. Raises FileNotFoundError, or ValueError if damaged."""
    check_tensors(path)
    try:
        return dict(mx.load(str(path), format="safetensors"))  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None


def check_tensors(path: Path) -> dict[str, Any]:
    """Checks a safetensors file's header against its size, as MLX itself trusts it; returns it.

    Raises FileNotFoundError, or ValueError saying what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such weights file", str(path))
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"{path} is cut short or is not a safetensors file")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            spans = []
            for name, entry in header.items():
                start, end = _counts(name, entry["data_offsets"], LARGEST_FILE)
                count = math.prod(_counts(name, entry["shape"], LARGEST_EXTENT))
                if end - start != count * _BYTES[entry["dtype"]]:
                    raise ValueError(f"tensor {name!r} does not fill its bytes")
                spans.append((start, end))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} has a damaged safetensors header: {error}") from None
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise ValueError(
                f"{path} has a damaged safetensors header: tensors leave gaps or overlap"
            )
        position = end
    if 8 + length + position != size:
        raise ValueError(f"{path} is cut short: {size} bytes instead of {8 + length + position}")
    return dict(header)


def _counts(name: str, values: list[Any], largest: int) -> list[int]:
    """Whole numbers from 0 to `largest`. Raises ValueError where others are among them."""
    if any(type(value) is not int or not 0 <= value <= largest for value in values):
        raise ValueError(f"tensor {name!r} has shape or offsets {values}")
    return values
