"""GPT-2 in MLX that learns a text by heart, and says how well it did."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import generate, load, train, verify
    from .model.gpt import GPT

__version__ = "0.1.0"
__all__ = ["GPT", "generate", "load", "train", "verify"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: MLX takes a second that --help has no time for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(".model.gpt" if name == "GPT" else ".api", __name__)
    return getattr(module, name)
