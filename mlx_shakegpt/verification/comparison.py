"""Whether a certificate's figures are those of a measurement: all of them, in both directions.

Other devices and libraries round otherwise, so each kind of figure has its tolerance. Knows nothing
of how figures are measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .controls import LEAKS
from .extraction import TIES, interval, run_lengths

Figures = dict[str, Any]

NLL_SHARE, NLL_TOLERANCE = 0.02, 1e-4  # of a loss, in nats a token
FLOOR_TOLERANCE = 1e-9  # counted, not measured
RATE_TOLERANCE, PLACES = 0.005, 2  # of a share; or so many places, where that is more
THRESHOLD_TOLERANCE = 0.03  # of a share above some chance, which a loss within its own may cross
ROUNDING = 1e-13  # of a difference itself
COMPRESSED_SHARE = 0.01  # between versions of bz2 and xz
LINES = 2  # worst lines that may have changed

LABELS = ("name", "text.name", "weights.name")  # what a file or folder is called today
MACHINE = ("device", "device_name", "dtype", "versions")


@dataclass(frozen=True)
class Comparison:
    """What differs, in words; which figures were compared; and which were not, and why."""

    differences: list[str]
    compared: list[str]
    not_compared: list[str]


def compare(stated: Figures, measured: Figures) -> Comparison:
    """Compares all that a certificate states with what was measured, of the same structure."""
    try:
        a, b = _flat(stated), _flat(json.loads(json.dumps(measured)))
    except ValueError as error:
        return Comparison([str(error)], ["the names of all entries"], [])
    differences, compared, not_compared = [], [], []
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b:
            compared.append(name)
            differences.append(f"{name} is {'missing' if name in b else 'not a figure'}")
        elif name in LABELS:
            not_compared.append(f"{name} (a name)")
        elif name.partition(".")[0] in MACHINE and a[name] != b[name]:
            not_compared.append(f"{name} ({_short(a[name])} there, {_short(b[name])} here)")
        elif name == "worst_lines" and a.get("dtype") != b.get("dtype"):
            not_compared.append(f"{name} (measured in another dtype)")
        else:
            compared.append(name)
            if not _same(name, a, b):
                differences.append(f"{name} is {_short(b[name])}, not {_short(a[name])}")
    return Comparison(differences, compared, not_compared)


def _flat(value: Any, name: str = "") -> Figures:
    """A certificate's entries by their path, lists whole. Raises ValueError for a key by which one
    entry would pass for another."""
    if name == "extraction":
        value = {f"em@{e['k']},{e['m']}": e for e in value}
    if not isinstance(value, dict) or name.endswith("histogram"):
        return {name.removeprefix("extraction."): value}
    entries: Figures = {}
    for key, part in value.items():
        leaves = _flat(part, f"{name}.{key}" if name else key)
        if not key or "." in key or leaves.keys() & entries.keys():
            raise ValueError(f"an entry of {name or 'the certificate'} is called {key!r}")
        entries |= leaves
    return entries


def _same(name: str, a: Figures, b: Figures) -> bool:
    group, _, last = name.rpartition(".")
    rule = _RULES.get(name) or _RULES.get(last) or _RULES.get(group.rpartition(".")[2])
    try:
        return (rule or _equal)(name, a, b)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return False  # an entry is of another kind than it should be


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = json.dumps(value, ensure_ascii=False).strip('"')
    return text if len(text) <= 60 else text[:59] + "…"


def _equal(name: str, a: Figures, b: Figures) -> bool:
    return json.dumps(a[name], sort_keys=True) == json.dumps(b[name], sort_keys=True)


def _near(stated: Any, measured: Any, allowed: float) -> bool:
    number = isinstance(stated, (int, float)) and not isinstance(stated, bool)
    return number and abs(measured - stated) <= allowed + ROUNDING


def _loss(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], NLL_TOLERANCE + NLL_SHARE * abs(b[name]))


def _excess(name: str, a: Figures, b: Figures) -> bool:
    """As far from each other as the losses may be, as the floor is counted."""
    return _near(a[name], b[name], NLL_TOLERANCE + NLL_SHARE * b["nll"])


def _bits(name: str, a: Figures, b: Figures) -> bool:
    """As far from each other as the losses that they come from may be."""
    scale = b[name] / b["nll"] if b["nll"] else 1
    return _near(a[name], b[name], scale * NLL_TOLERANCE + NLL_SHARE * b[name])


def _compressed(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], COMPRESSED_SHARE * b[name])


def _within(allowed: float) -> Callable[[str, Figures, Figures], bool]:
    return lambda name, a, b: _near(a[name], b[name], allowed)


def _rate(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], share_allowed(_places(name, b)))


def _places(name: str, b: Figures) -> int:
    """How many places a rate was measured at."""
    if name == "determined_accuracy":
        return int(b["determined"])
    group = name.partition(".")[0] if name.startswith("em@") else name.rpartition(".")[0]
    return int(b[f"{group}.offsets"] if group else b["tokens"])


def _bound(name: str, a: Figures, b: Figures) -> bool:
    """An interval's end is that of the stated rate, whose own rule says how far it may be off."""
    rate, offsets, complete = (
        a[f"{name.rpartition('.')[0]}.{part}"] for part in ("rate", "offsets", "every_offset")
    )
    ends = interval(round(rate * offsets), offsets, complete)
    return _near(a[name], ends[name.endswith("high")], 0)


def _above_a_chance(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], max(THRESHOLD_TOLERANCE, share_allowed(_places(name, b))))


def share_allowed(places: int) -> float:
    """How far two shares of so many places may lie from each other."""
    return max(RATE_TOLERANCE, PLACES / max(1, places))


def _failing(name: str, a: Figures, b: Figures) -> bool:
    places = _places(name, b)
    return len(set(a[name]) ^ set(b[name])) <= share_allowed(places) * places and all(
        type(offset) is int for offset in a[name]
    )


def _alignment(name: str, a: Figures, b: Figures) -> bool:
    first = next(e for e in b if e.startswith("em@") and e.endswith(".offsets"))
    allowed = share_allowed(b[first] // max(1, len(b[name])))
    return all(_near(x, y, allowed) for x, y in zip(a[name], b[name], strict=True))


def _flips(b: Figures) -> int:
    """Free runs that a tie may change."""
    return max(1, len(b["free_running.offsets"]) // TIES)


def _runs(name: str, a: Figures, b: Figures) -> bool:
    pairs = list(zip(a[name], b[name], strict=True))
    longest = b["free_running.followed"]
    sound = all(type(x) is int and 0 <= x <= longest for x, _ in pairs)
    return sound and sum(x != y for x, y in pairs) <= _flips(b)


def _ties(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], _flips(b))


def _run_share(name: str, a: Figures, b: Figures) -> bool:
    return _near(a[name], b[name], _flips(b) / len(b["free_running.offsets"]))


def _of_runs(name: str, a: Figures, b: Figures) -> bool:
    """What is counted on the stated runs must be their count."""
    if not _runs("free_running.runs", a, b):
        return False
    counted = run_lengths(a["free_running.runs"], b["free_running.followed"])
    return _equal(name, a, {f"free_running.{key}": value for key, value in counted.items()})


def _reasons(name: str, a: Figures, b: Figures) -> bool:
    plain = [[re.sub(r"\d[\d.,e+-]*", "#", reason) for reason in x[name]] for x in (a, b)]
    return plain[0] == plain[1]


def _worst(name: str, a: Figures, b: Figures) -> bool:
    """The same lines, and of each the same entries, but for a few."""
    x, y = ({json.dumps(e | {"nll": 0}, sort_keys=True): e["nll"] for e in z[name]} for z in (a, b))
    near = all(
        _near(nll, y[line], NLL_TOLERANCE + NLL_SHARE * y[line])
        for line, nll in x.items()
        if line in y
    )
    return near and max(len(x.keys() - y.keys()), len(y.keys() - x.keys())) <= LINES


# By the whole name of a figure, its last part, or that before it.
_RULES: dict[str, Callable[[str, Figures, Figures], bool]] = {
    "nll": _loss,
    "excess": _excess,
    **dict.fromkeys(("bits", "bits_per_byte"), _bits),
    **dict.fromkeys(("bits_bz2", "bits_xz"), _compressed),
    "rate": _rate,
    **dict.fromkeys(("low", "high"), _bound),
    **dict.fromkeys(("p_z_half", "discoverable"), _above_a_chance),
    **dict.fromkeys(("accuracy", "determined_accuracy"), _rate),
    **dict.fromkeys(("free_running.score", "free_running.right"), _run_share),
    **{
        f"free_running.{name}": _of_runs
        for name in ("median", "p5", "shortest", "whole", "histogram")
    },
    "free_running.runs": _runs,
    "free_running.ties": _ties,
    "floor": _within(FLOOR_TOLERANCE),
    "leak": _within(LEAKS),
    "failing": _failing,
    "alignment": _alignment,
    "reasons": _reasons,
    "worst_lines": _worst,
}
