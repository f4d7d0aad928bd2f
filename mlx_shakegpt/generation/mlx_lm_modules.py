"""Single modules of mlx-lm, which give the KV cache and the samplers' filters."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def mlx_lm_module(name: str) -> ModuleType:
    """One module of mlx-lm, without running mlx_lm/__init__.py.

    That imports transformers, for seconds, before the first token; these modules need only MLX.
    """
    if "mlx_lm" in sys.modules or f"mlx_lm.{name}" in sys.modules:
        return importlib.import_module(f"mlx_lm.{name}")
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.origin is None:
        raise ImportError("mlx-lm is not installed; install it with: pip install mlx-lm")
    root = Path(spec.origin).parent
    stand_ins = {"mlx_lm": root, "mlx_lm.models": root / "models"}
    for package, folder in stand_ins.items():
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder)]
    try:
        return importlib.import_module(f"mlx_lm.{name}")
    finally:
        for package in stand_ins:
            del sys.modules[package]
