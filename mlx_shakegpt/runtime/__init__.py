"""The machine: its device, memory and processes, and what makes MLX fast on it."""

from .device import Runtime, lanes, matmul_gflops, on_gpu, setup, versions
from .launch import Launch, launched
from .memory import free_bytes, memory_bytes, peak_bytes, peak_resident_bytes

__all__ = [
    "Launch",
    "Runtime",
    "free_bytes",
    "lanes",
    "launched",
    "matmul_gflops",
    "memory_bytes",
    "on_gpu",
    "peak_bytes",
    "peak_resident_bytes",
    "setup",
    "versions",
]
