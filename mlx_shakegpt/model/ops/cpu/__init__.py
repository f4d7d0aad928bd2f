"""A layer's operations for MLX's CPU backend, each with its gradient, from what it does fast.

MLX's CPU kernels are scalar calls for tanh and exp, strided wherever an operand is broadcast or
transposed, and single-threaded; only matrix products use all cores.
"""

from .attention import attention, split_heads
from .layers import affine, gelu, gelu_affine, layer_norm, linear, norm_affine
from .loss import cross_entropy, head_loss

__all__ = [
    "affine",
    "attention",
    "cross_entropy",
    "gelu",
    "gelu_affine",
    "head_loss",
    "layer_norm",
    "linear",
    "norm_affine",
    "split_heads",
]
