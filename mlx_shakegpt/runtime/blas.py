"""A fast `cblas_sgemm` for MLX's Linux CPU build, whose wheel carries the reference BLAS.

MLX calls `cblas_sgemm` through one entry of its import table (ELF's global offset table). This
finds an OpenBLAS and writes its address there: no preloading, no order of imports.
Knows nothing of MLX beyond the name of its library and of that one function.
"""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SGEMM = b"cblas_sgemm"
_JUMP_OR_DATA = {62: (6, 7), 183: (1025, 1026)}  # GLOB_DAT, JUMP_SLOT by ELF machine: x86-64, arm64
_RELA, _DYNSYM = 4, 11  # section types: relocations with addend, dynamic symbols
Compile = Callable[[str, str], Path | None]
_ENGINE = [Path(__file__).with_name(name) for name in ("bfloat16.cpp", "engine.cpp")]
_ON_OPENMP = 2  # as openblas_get_parallel says


@dataclass(frozen=True)
class Blas:
    """The BLAS under MLX: whether it is `fast`, its name and library, or the `reason` it is not."""

    fast: bool
    name: str
    path: str = ""
    reason: str = ""
    prefix: str = ""  # of its symbols
    library: Any = None  # what ctypes loaded

    engine: Any = None  # that shares products among threads, or None: OpenBLAS does

    @property
    def threads(self) -> int:
        """How many threads a product uses at most."""
        if self.engine:
            return int(self.engine.engine_threads())
        return int(self._function("get_num_threads")()) if self.fast else 1

    @property
    def can_round(self) -> bool:
        """Whether products can take operands rounded to bfloat16, at twice the speed."""
        return bool(self.engine and self.engine.engine_can_round())

    @property
    def rounds(self) -> bool:
        """Whether they do now."""
        return bool(self.engine and self.engine.engine_rounds())

    def round_operands(self, rounded: bool) -> None:
        """Sets whether the operands of large products are rounded to bfloat16, sums in float32, of
        products that are computed from now on."""
        if self.engine:
            self.engine.engine_round(rounded)

    def use_threads(self, count: int) -> None:
        """Sets how many threads a product uses at most."""
        if self.engine:
            self.engine.engine_use_threads(count)
        elif self.fast:
            self._function("set_num_threads")(count)

    def _function(self, name: str) -> Any:
        return getattr(self.library, f"{self.prefix}openblas_{name}")


def use_fast_blas(compiled: Compile | None = None) -> Blas:
    """Routes MLX's float32 matrix products to OpenBLAS: a system one, else the one from PyPI.

    With `compiled`, which makes a library of a name and C++ source, by way of the engine: products
    are then cut into blocks for threads of its own, and have the same bits for any number of them.
    """
    mlx = _loaded_library("libmlx.so")
    if mlx is None:
        return Blas(False, "reference", reason="libmlx.so is not among the loaded libraries")
    path, base = mlx
    try:
        slots = import_slots(path, _SGEMM)
    except (OSError, ValueError, struct.error) as error:
        return Blas(False, "reference", str(path), reason=f"cannot read {path.name}: {error}")
    if not slots:
        return Blas(False, "unknown", str(path), reason=f"{path.name} does not import cblas_sgemm")
    for candidate, prefix in candidates():
        try:
            library = ctypes.CDLL(candidate)
            sgemm = getattr(library, f"{prefix}cblas_sgemm")
            config = getattr(library, f"{prefix}openblas_get_config")
        except (OSError, AttributeError):
            continue
        config.restype = ctypes.c_char_p
        address = _address(sgemm)
        file = _file_at(address)  # links may lead to it by other names
        engine = _started_engine(compiled, library, prefix) if compiled else None
        if engine:
            address = _address(engine.engine_sgemm)
        try:
            for slot in slots:
                _write_pointer(base + slot, address)
        except OSError as error:
            return Blas(False, "reference", str(path), reason=str(error))
        name = " ".join(config().decode().split()[:2])
        return Blas(True, name, file, prefix=prefix, library=library, engine=engine)
    return Blas(False, "reference", str(path), reason="no OpenBLAS was found")


def _started_engine(compiled: Compile, library: Any, prefix: str) -> Any:
    """The engine over an OpenBLAS, which it takes over the number of threads from; None where one
    of its functions is missing or nothing can be compiled or loaded."""
    try:
        sgemm, sgemv = (getattr(library, f"{prefix}cblas_{name}") for name in ("sgemm", "sgemv"))
        get, use, parallel = (
            getattr(library, f"{prefix}openblas_{name}")
            for name in ("get_num_threads", "set_num_threads", "get_parallel")
        )
    except AttributeError:
        return None
    built = compiled("engine", "".join(file.read_text(encoding="utf-8") for file in _ENGINE))
    if built is None:
        return None
    try:
        engine = ctypes.CDLL(str(built))
    except OSError:  # such as a cache on a disk from which nothing may be run
        return None
    engine.engine_can_round.restype = engine.engine_rounds.restype = ctypes.c_bool
    engine.engine_round.argtypes = [ctypes.c_bool]
    # One built without threads may not be safe to call from several.
    threads = get() if parallel() else 1
    use(1)
    limit = _address(use) if parallel() == _ON_OPENMP else 0
    engine.engine_start(*(ctypes.c_void_p(at) for at in (_address(sgemm), _address(sgemv), limit)))
    engine.engine_use_threads(threads)
    return engine


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def candidates() -> list[tuple[str, str]]:
    """Libraries to try, each with the prefix of its symbols."""
    libraries = [(name, "") for name in ("libopenblas.so.0", "libopenblas.so")]
    spec = importlib.util.find_spec("scipy_openblas32")
    if spec and spec.origin:
        folder = Path(spec.origin).parent / "lib"
        libraries += [(str(file), "scipy_") for file in sorted(folder.glob("libscipy_openblas*"))]
    return libraries


def _maps() -> list[tuple[int, int, str]]:
    """Start address, end and file of each mapped region of this process."""
    lines = os.fsdecode(Path("/proc/self/maps").read_bytes()).splitlines()
    parts = [line.split(maxsplit=5) for line in lines]
    named = [(*p[0].split("-"), p[5]) for p in parts if len(p) == 6]
    return [(int(start, 16), int(end, 16), file) for start, end, file in named]


def _loaded_library(name: str) -> tuple[Path, int] | None:
    """File and lowest address of a loaded library."""
    hits = [(start, file) for start, _, file in _maps() if Path(file).name == name]
    return (Path(hits[0][1]), min(start for start, _ in hits)) if hits else None


def _file_at(address: int) -> str:
    """The file that is mapped at an address."""
    return next((file for start, end, file in _maps() if start <= address < end), "")


def import_slots(path: Path, symbol: bytes) -> list[int]:
    """Offsets, from the load address, of the pointers through which `path` calls `symbol`.

    Reads the section headers of a 64-bit little-endian ELF file (System V ABI, chapter 4).
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
        if elf[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        machine = struct.unpack_from("<H", elf, 18)[0]
        kinds = _JUMP_OR_DATA.get(machine)
        if kinds is None:
            raise ValueError(f"ELF machine {machine} is neither x86-64 nor arm64")
        table = struct.unpack_from("<Q", elf, 40)[0]
        size, count = struct.unpack_from("<HH", elf, 58)
        # (type, offset, size, link) of each section
        sections = [
            (h[1], h[4], h[5], h[6])
            for h in (
                struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)
            )
        ]
        slots = []
        for kind, start, length, link in sections:
            if kind != _RELA or sections[link][0] != _DYNSYM:
                continue
            symbols, strings = sections[link][1], sections[sections[link][3]][1]
            for offset, info, _ in struct.iter_unpack("<QQq", elf[start : start + length]):
                if info & 0xFFFFFFFF in kinds:
                    name = strings + struct.unpack_from("<I", elf, symbols + 24 * (info >> 32))[0]
                    if elf[name : name + len(symbol) + 1] == symbol + b"\0":
                        slots.append(offset)
        return slots


def _write_pointer(address: int, value: int) -> None:
    """Writes one pointer, making its page writable first: the linker may have sealed it."""
    page = mmap.PAGESIZE
    start = address - address % page
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(
        ctypes.c_void_p(start), ctypes.c_size_t(page), mmap.PROT_READ | mmap.PROT_WRITE
    ):
        raise OSError(ctypes.get_errno(), "mprotect failed on MLX's import table")
    ctypes.c_void_p.from_address(address).value = value
