"""What `bench --share` measures, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def tables(report: Figures) -> str:
    """A survey's report for people."""
    from ..sharing import markdown

    speeds = {p["dtype"]: p["gflops"] for p in report["products"] if "gflops" in p}
    parts = [_machine(report["machine"])]
    for section, header, cells in (
        ("products", ("products", "size", "GFLOP/s"), _product),
        (
            "steps",
            (
                "training step", "batch", "dtype", "first", "each", "tokens/s", "of peak",
                "memory", "spoken tokens/s", "known by heart", "numbers",
            ),
            lambda entry: _step(entry, speeds),
        ),
        ("suspects", ("suspected slow", "dtype", "tokens", "takes"), _suspect),
        (
            "gradients",
            ("gradient of", "dtype", "repeats", "wrong", "differ", "error at most", "allowed"),
            _gradient,
        ),
    ):  # fmt: skip
        rows = []
        for entry in report[section]:
            row = cells(entry)
            if "error" in entry:
                row = [*row[:-1], f"failed: {entry['error']}"]
            rows.append(row)
        parts.append(markdown.table(header, rows))
    return "\n\n".join(parts)


def _machine(machine: Figures) -> str:
    gpu = machine["gpu"] or {}
    where = f"{machine['chip']}, {machine['cores']} cores"
    if cores := gpu.get("cores"):
        where += f", {cores} GPU cores"
    elif gpu:
        where += f", {gpu.get('device_name', 'a GPU')}"
    versions = machine["versions"]
    lines = (
        f"{where}, {machine['memory_bytes'] / 1e9:.1f} GB",
        f"{machine['system']}{', ' + machine['power'] if machine['power'] else ''}",
        f"MLX {versions['mlx']} on its {machine['device'].upper()}"
        f"{', ' + machine['blas'] if machine['blas'] else ''}; mlx-shakegpt "
        f"{versions['mlx-shakegpt']}, Python {machine['python']}",
    )
    return "\n".join(lines)


def _product(entry: Figures) -> list[str]:
    return [entry["dtype"], _number(entry, "size", ".0f"), _number(entry, "gflops", ",.1f")]


def _step(entry: Figures, speeds: Mapping[str, float]) -> list[str]:
    speed, share = speeds.get(entry["dtype"]), ""
    if speed and "flops" in entry:
        share = f"{entry['flops'] / entry['seconds'] / 1e9 / speed:.0%}"
    generation = entry.get("generation", {})
    return [
        entry["preset"],
        f"{entry['batch_size']} × {entry['context']}" if "context" in entry else "",
        entry["dtype"],
        _number(entry, "first_seconds", ".2f", " s"),
        _number(entry, "seconds", ".3f", " s"),
        _number(entry, "tokens_per_second", ",.0f"),
        share,
        f"{entry['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in entry else "",
        _number(generation, "tokens_per_second", ".0f"),
        _number(generation, "known_tokens_per_second", ".0f"),
        "" if "finite" not in entry else "finite" if entry["finite"] else "not finite",
    ]


def _suspect(entry: Figures) -> list[str]:
    taken = entry.get("seconds", {})
    return [
        entry["what"],
        entry.get("dtype", ""),
        _number(entry, "tokens", ",.0f"),
        "; ".join(f"{name}: {_time(seconds)}" for name, seconds in taken.items()),
    ]


def _gradient(entry: Figures) -> list[str]:
    error = entry.get("worst_error", 0.0)
    return [
        entry["of"],
        entry["dtype"],
        *(_number(entry, name, "d") for name in ("repeats", "wrong", "differ")),
        "not finite" if error is None else _number(entry, "worst_error", ".1e"),
        _number(entry, "tolerance", "g"),
    ]


def _number(entry: Figures, name: str, form: str, unit: str = "") -> str:
    return f"{entry[name]:{form}}{unit}" if name in entry else ""


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
