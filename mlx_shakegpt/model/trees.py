"""MLX's trees of arrays as flat dicts, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def flat(tree: Any) -> dict[str, mx.array]:
    """The arrays of a tree by dotted name."""
    return dict(tree_flatten(tree))


def assign(tree: Any, values: Mapping[str, mx.array]) -> None:
    """Puts arrays by dotted name into a tree whose dicts and lists stay the same objects, as a
    compiled function that captured them needs it."""
    for name, value in values.items():
        *path, last = name.split(".")
        holder = tree
        for part in path:
            holder = holder[int(part) if isinstance(holder, list) else part]
        holder[int(last) if isinstance(holder, list) else last] = value
