"""The device under MLX: which one, at which precision, and on Linux CPUs with a fast BLAS.

Call `setup()` before building models; it is idempotent.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TypeVar

import mlx.core as mx

from .blas import Blas, use_fast_blas
from .compiler import compiled, use_native_kernels
from .launch import Launch, launched

Item = TypeVar("Item")
_PACKAGES = ("mlx-shakegpt", "mlx", "mlx-lm", "numpy", "tiktoken")
_MOST_CACHED = 2 << 30  # bytes that MLX keeps of what was freed on a GPU
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


@dataclass(frozen=True)
class Runtime:
    """What the machine offers: `device` is "gpu" or "cpu", `dtype` the default precision."""

    device: str
    name: str
    dtype: str
    blas: Blas | None  # None where MLX needs none: on a GPU and on macOS
    launch: Launch
    warnings: tuple[str, ...]

    @property
    def can_round(self) -> bool:
        """Whether large products can round their operands, as `products_of` has them do."""
        return self.blas is not None and self.blas.can_round

    def check_products(self, precision: str) -> None:
        """Raises ValueError where this machine has no products of such `precision`."""
        if precision == "bfloat16" and not self.can_round:
            raise ValueError(
                "`products` is bfloat16, which needs Linux, g++ 11 and a CPU with AVX512-BF16; "
                "use `products` float32"
            )


@cache
def setup() -> Runtime:
    """Prepares MLX for this machine, once a process.

    On a Linux CPU, MLX's matrix products are sent to a fast BLAS where one is found. Processes that
    were launched together share the cores, and each compiles its kernels by itself. Raises
    ValueError where a launcher's environment cannot be read, or SHAKEGPT_DEVICE names no device.
    """
    use_chosen_device()
    on_cpu = not on_gpu()
    launch = launched()
    warnings = []
    blas = None
    if on_cpu and os.uname().sysname == "Linux":
        _keep_freed_memory()
        problem = use_native_kernels(launch.local_rank)
        blas = use_fast_blas(None if problem else compiled)
        if not blas.fast:
            warnings.append(
                f"MLX uses its slow reference BLAS ({blas.reason}), 20 to 100 times slower than "
                "OpenBLAS; get one with: pip install scipy-openblas32"
            )
        elif launch.local_size > 1 and "OPENBLAS_NUM_THREADS" not in os.environ:
            blas.use_threads(max(1, blas.threads // launch.local_size))
        if shutil.which("g++") is None:
            warnings.append(
                "no g++, so MLX cannot fuse operations and steps take about twice the time; "
                "get it with: apt-get install g++"
            )
        elif problem:
            warnings.append(
                f"MLX compiles its kernels for any processor, and slowly ({problem}); "
                "make ~/.cache writable, or name another folder in XDG_CACHE_HOME"
            )
    if not on_cpu:
        # What is float32 stays so on GPUs that would round its products; training is bfloat16.
        os.environ.setdefault("MLX_ENABLE_TF32", "0")
        # Beyond its limit MLX waits for memory instead of swapping; CUDA's own limit is of the
        # whole card, whoever uses it. The cache is not part of it, and wired memory can take the
        # whole system down (ml-explore/mlx-lm#883).
        facts = mx.device_info()
        if limit := facts.get("free_memory") or facts.get("max_recommended_working_set_size"):
            mine = int(limit) // launch.local_size
            mx.set_memory_limit(mine)
            mx.set_cache_limit(min(_MOST_CACHED, mine // 8))
    info = mx.device_info()
    return Runtime(
        device="cpu" if on_cpu else "gpu",
        name=str(info.get("device_name", info.get("architecture", "unknown"))),
        dtype="float32" if on_cpu else "bfloat16",
        blas=blas,
        launch=launch,
        warnings=tuple(warnings),
    )


def use_chosen_device() -> None:
    """Makes the device that SHAKEGPT_DEVICE names, "cpu" or "gpu", MLX's default; else it is MLX's
    own choice. Raises ValueError where there is none of that name."""
    chosen = os.environ.get("SHAKEGPT_DEVICE")
    if not chosen:
        return
    devices = {"cpu": mx.cpu} | ({"gpu": mx.gpu} if mx.is_available(mx.gpu) else {})
    if chosen not in devices:
        raise ValueError(f"SHAKEGPT_DEVICE is {chosen}; it must be {' or '.join(devices)} here")
    mx.set_default_device(devices[chosen])


def _keep_freed_memory() -> None:
    """Has malloc keep large blocks for reuse; by default each is fresh pages from the kernel, and
    to clear those takes a tenth of a training step. MLX's CPU allocator keeps none itself."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


@contextmanager
def products_of(precision: str) -> Iterator[None]:
    """Within it, large float32 products on a Linux CPU round their operands to `precision`,
    "float32" or "bfloat16". Raises ValueError where this processor cannot."""
    setup().check_products(precision)
    blas, rounded = setup().blas, precision == "bfloat16"
    if blas is None or blas.rounds == rounded:
        yield
        return
    mx.synchronize()  # what was started before is computed as it was meant
    blas.round_operands(rounded)
    try:
        yield
    finally:
        mx.synchronize()
        blas.round_operands(not rounded)


def with_products_of(precision: str, items: Iterator[Item]) -> Iterator[Item]:
    """The items of an iterator that computes each with `products_of` a precision; whatever is done
    with an item has products of its own."""
    while True:
        with products_of(precision):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item


@cache
def parallel_streams() -> list[mx.Stream]:
    """Streams among which to share independent work, in one call of mx.eval: on a CPU whose threads
    share products two, else the default one.

    MLX computes all but products on one core a stream, so that a single one leaves others idle.
    """
    blas = setup().blas
    if blas is None or blas.engine is None or blas.threads < 2:
        return [mx.default_stream(mx.default_device())]
    return [mx.new_stream(mx.cpu) for _ in range(2)]


def on_gpu() -> bool:
    """Whether arrays live on a GPU by default (Metal or CUDA)."""
    return mx.default_device().type == mx.DeviceType.gpu


def versions() -> dict[str, str]:
    """Versions of the packages that decide what is computed, by name."""
    return {name: version(name) for name in _PACKAGES}
