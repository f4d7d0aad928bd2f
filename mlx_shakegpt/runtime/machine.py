"""This machine in words that may be published: its chip, system and memory, and nobody's name."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx

from .device import Runtime, versions
from .memory import total_memory

# To where the message surely goes on, as the names of folders may have spaces.
_PATH = re.compile(r'(?:(?<!\w)[A-Za-z]:\\|(?<!\w)~?/(?=\S))[^:;,"()]*')
_LONGEST = 300  # characters of a message
_OF_A_GPU = (
    "device_name", "architecture", "memory_size", "total_memory",
    "max_recommended_working_set_size",
)  # fmt: skip


def description(runtime: Runtime) -> dict[str, Any]:
    """Chip, cores, memory, system, device and versions, for a file that others will read."""
    on_mac = sys.platform == "darwin"
    return {
        "chip": _mac_chip() if on_mac else _linux_chip(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": total_memory(),
        "system": _mac_system() if on_mac else _linux_system(),
        "device": runtime.device,
        "gpu": _gpu(on_mac) if runtime.device == "gpu" else None,
        "power": _mac_power() if on_mac else None,
        "dtype": runtime.dtype,
        "blas": runtime.blas.name if runtime.blas else None,
        "python": platform.python_version(),
        "versions": versions(),
    }


def without_names(message: str) -> str:
    """The first line of a message without paths, and without this user's and machine's names."""
    line = _PATH.sub("…", (message.strip().splitlines() or [""])[0])
    names = {socket.gethostname(), socket.gethostname().partition(".")[0], Path.home().name}
    with suppress(OSError, KeyError, ImportError):  # a user without an entry has no name
        names.add(getpass.getuser())
    for name in sorted(names - {""}, key=len, reverse=True):
        line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "…", line)
    return line[:_LONGEST]


def _gpu(on_mac: bool) -> dict[str, Any]:
    """Of what MLX says of its GPU what tells it from others of its kind."""
    info = mx.device_info()
    gpu = {name: info[name] for name in _OF_A_GPU if name in info}
    if on_mac:
        listing = printed_by("/usr/sbin/ioreg", "-r", "-d", "1", "-c", "AGXAccelerator")
        if cores := re.search(r'"gpu-core-count" = (\d+)', listing):
            gpu["cores"] = int(cores[1])
    return gpu


def _mac_chip() -> str:
    return printed_by("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string").strip() or "unknown"


def _mac_system() -> str:
    return f"macOS {platform.mac_ver()[0]}"


def _mac_power() -> str | None:
    """Where the Mac's power comes from: on its battery, or in low power mode, it may be slower."""
    source = re.search(r"drawing from '([^']+)'", printed_by("/usr/bin/pmset", "-g", "batt"))
    low = re.search(r"lowpowermode\s+1", printed_by("/usr/bin/pmset", "-g"))
    return f"{source[1]}{', low power mode' if low else ''}" if source else None


def _linux_chip() -> str:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        fields = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line)
        return fields.get("model name") or fields.get("Model") or "unknown"
    return "unknown"


def _linux_system() -> str:
    name = platform.system()
    with suppress(OSError):
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{name}, {platform.system()} {platform.release().partition('-')[0]}"


def printed_by(*command: str) -> str:
    """What a program of the system prints; nothing where it cannot be run."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10,
            check=False,
        ).stdout  # fmt: skip
    return ""
