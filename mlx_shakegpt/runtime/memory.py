"""How much memory there is, is free, and was used."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlx.core as mx

GROUP = Path("/sys/fs/cgroup")
# Limit, use and those pages of it that are given up at once, in the two versions of control groups.
_GROUPS = (
    ("memory.max", "memory.current", "memory.stat", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)  # fmt: skip
_UNITS = 1024  # of /proc/meminfo


def total_memory() -> int:
    """Bytes of physical memory, which a Mac's GPU shares."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes() -> int:
    """Bytes that this process may take.

    On a GPU what the card has free, or the working set that Metal recommends less what is taken;
    on Linux what the system and the process's control group have left; elsewhere all memory.
    """
    if mx.default_device().type == mx.DeviceType.gpu:
        info = mx.device_info()
        if "free_memory" in info:  # CUDA's, which knows of other processes too
            return int(info["free_memory"]) + mx.get_cache_memory()
        limit = info.get("max_recommended_working_set_size", total_memory())
        return int(limit) - mx.get_active_memory()
    free = total_memory()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * _UNITS
    except (OSError, KeyError, ValueError):
        pass  # not Linux
    return max(0, min([free, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """Bytes that the process's control groups have left; of a version without a limit none."""
    for limit, used, stat, reclaimable in _GROUPS:
        with suppress(OSError, KeyError, ValueError):
            most = int((GROUP / limit).read_text(encoding="utf-8"))  # "max" is no number
            pages = dict(map(str.split, (GROUP / stat).read_text(encoding="utf-8").splitlines()))
            cached = sum(int(pages[name]) for name in reclaimable)
            yield most - int((GROUP / used).read_text(encoding="utf-8")) + cached


def peak_bytes() -> int:
    """The most that this process has used: on a GPU of its memory, else resident."""
    if mx.default_device().type == mx.DeviceType.gpu:
        return int(mx.get_peak_memory())
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most of the machine's own memory that this process has held."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
