"""MLX's trees of arrays as flat dicts."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten


def flat(tree: Any) -> dict[str, mx.array]:
    """The arrays of a tree by dotted name."""
    return dict(tree_flatten(tree))
