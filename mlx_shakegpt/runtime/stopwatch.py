"""How long work takes on this device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from .device import on_gpu

LARGEST_PRODUCT = 8192
_LONG_ENOUGH = 0.03  # seconds that a product takes, so that starting it does not count


def compared(
    variants: Mapping[str, Callable[[], Any]], limit: float, most: int = 30
) -> dict[str, float]:
    """Median seconds of each variant of some work, which gives arrays or a tree of them.

    Taken in turn, as a shared machine changes by the minute, after one run each; until about
    `limit` seconds are over or each was run `most` times.
    """
    for work in variants.values():
        mx.eval(work())
    times: dict[str, list[float]] = {name: [] for name in variants}
    start = time.perf_counter()
    for _ in range(most):
        for name, work in variants.items():
            times[name].append(seconds_of(work))
        if time.perf_counter() - start > limit:
            break
    return {name: statistics.median(taken) for name, taken in times.items()}


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds until what `work` gives is computed."""
    start = time.perf_counter()
    mx.eval(work())
    return time.perf_counter() - start


def matmul_gflops(repeats: int = 5, dtype: mx.Dtype = mx.float32) -> float:
    """The best GFLOP/s of `repeats` square products, large enough to keep the device busy."""
    size = 4096 if on_gpu() else 1024
    product = _square_product(size, dtype)
    return _gflops(size, min(seconds_of(product) for _ in range(repeats)))


def product_speed(dtype: mx.Dtype, limit: float) -> dict[str, float]:
    """`gflops` of a square product of `size`, grown until it keeps the device busy."""
    size, seconds = 256, 0.0
    while True:
        product = _square_product(size, dtype)
        seconds = seconds_of(product)
        if seconds > _LONG_ENOUGH or size == LARGEST_PRODUCT:
            break
        size *= 2
    seconds = min(seconds, compared({"": product}, limit)[""])
    return {"size": size, "gflops": _gflops(size, seconds)}


def _square_product(size: int, dtype: mx.Dtype) -> Callable[[], mx.array]:
    """A product of a random matrix (size, size) with itself, which was computed once."""
    a = mx.random.normal((size, size), key=mx.random.key(0)).astype(dtype)
    mx.eval(a, a @ a)
    return lambda: a @ a


def _gflops(size: int, seconds: float) -> float:
    return 2 * size**3 / seconds / 1e9


def launch_seconds(limit: float, count: int = 500) -> float:
    """Seconds that each of many small operations takes which wait for the one before."""

    def chain() -> mx.array:
        x = mx.zeros(8)
        for _ in range(count):
            x = x + 1
        return x

    return compared({"": chain}, limit)[""] / count
