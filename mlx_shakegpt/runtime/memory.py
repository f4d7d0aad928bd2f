"""How much memory there is, is free, and was used."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlx.core as mx

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
# The controller, and its files: limit, use, and those pages of it that are given up at once, in the
# two versions of control groups.
_VERSIONS = (
    ("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
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
    """Bytes that each of the process's control groups has left; of one without a limit none."""
    for controller, limit, used, reclaimable in _VERSIONS:
        for group in _groups(controller):
            with suppress(OSError, KeyError, ValueError):
                most = int((group / limit).read_text(encoding="utf-8"))  # "max" is no number
                lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
                pages = dict(map(str.split, lines))
                cached = sum(int(pages[name]) for name in reclaimable)
                yield most - int((group / used).read_text(encoding="utf-8")) + cached


def _groups(controller: str) -> list[Path]:
    """The folders of a controller's groups that this process is in, "" being version 2's: the
    root, which in a container is its own, and those below."""
    root, below = GROUPS / controller, ""
    with suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                below = path.strip("/")
    own = root / below
    return [own, *(parent for parent in own.parents if parent.is_relative_to(root))]


def peak_bytes() -> int:
    """The most that this process has used: on a GPU of its memory, else resident."""
    if mx.default_device().type == mx.DeviceType.gpu:
        return int(mx.get_peak_memory())
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most of the machine's own memory that this process has held."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
