"""What to do when a GPU, or the system above it, ends the work, and where MLX lacks a backend."""

from __future__ import annotations

_RETRY = "run the command again, a training with --resume: its last checkpoint is whole"
# In the messages of Metal's, CUDA's and MLX's allocators.
_NO_MEMORY = (
    "insufficient memory", "out of memory", "outofmemory", "attempting to allocate",
    "unable to allocate", "resource limit",
)  # fmt: skip


def lost_gpu(message: str) -> str | None:
    """One line on an error of MLX that tells of a GPU lost or full; None for any other error.

    macOS's watchdog ends long command buffers while the display is active; Metal's name for it is
    an interactivity impact (ml-explore/mlx#3267).
    """
    text = message.lower()
    if any(sign in text for sign in _NO_MEMORY):
        return (
            f"the GPU's memory is full; close other programs and {_RETRY}. Or start another --run "
            "with a smaller --batch-size"
        )
    if "command buffer execution failed" in text:
        return (
            f"macOS took the GPU away; {_RETRY}. If it happens again, let the display sleep, or "
            "set AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1"
        )
    if "cuda" in text and "failed" in text:
        return f"the GPU failed ({message}); {_RETRY}"
    return None


def no_backend(message: str) -> str | None:
    """One line on an error of importing MLX where none of its backends is installed; None for any
    other error."""
    if "libmlx" not in message:
        return None
    return (
        "MLX has no backend here; install one: pip install 'mlx-shakegpt[cpu]', or "
        "'mlx-shakegpt[cuda]' for an NVIDIA GPU"
    )
