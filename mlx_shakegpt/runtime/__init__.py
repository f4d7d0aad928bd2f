"""The machine: its device, memory and processes, and what makes MLX fast on it."""

from .device import (
    Runtime,
    on_gpu,
    parallel_streams,
    products_of,
    setup,
    versions,
    with_products_of,
)
from .launch import Launch, launched
from .memory import free_bytes, peak_bytes, peak_resident_bytes, total_memory
from .stopwatch import matmul_gflops

__all__ = [
    "Launch",
    "Runtime",
    "free_bytes",
    "launched",
    "matmul_gflops",
    "on_gpu",
    "parallel_streams",
    "peak_bytes",
    "peak_resident_bytes",
    "products_of",
    "setup",
    "total_memory",
    "versions",
    "with_products_of",
]
