"""Dataclass fields with their own help text and check."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, field, fields
from typing import Any

_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}


Check = tuple[Callable[[Any], bool], str]

POSITIVE: Check = (lambda x: x > 0, "a number above 0")
NOT_NEGATIVE: Check = (lambda x: x >= 0, "0 or more")
SHARE: Check = (lambda x: 0 <= x <= 1, "between 0 and 1")
SEED: Check = (lambda s: 0 <= s < 2**32, "0 … 2^32 − 1")
BETA: Check = (lambda x: 0 <= x < 1, "0 or more and below 1")


def one_of(*values: Any) -> Check:
    """A check that a value is among `values`."""
    return (lambda x: x in values, "one of " + ", ".join(map(str, values)))


def option(
    default: Any = MISSING, help: str = "", check: Check | None = None,
    choices: Sequence[str] = (), opposite: str = "",
) -> Any:  # fmt: skip
    """A dataclass field that carries its own help text and its check, or the values it can have;
    for a bool, `opposite` names what it is when it is False."""
    if choices:
        check = one_of(*choices)
    metadata = {"help": help, "check": check, "choices": choices, "opposite": opposite}
    return field(default=default, metadata=metadata)


class Checked:
    """Validates every field on construction, and round-trips through a JSON object."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            self.check(f.name, getattr(self, f.name))

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raises ValueError for a value that a field cannot have."""
        f = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
        kind = _KINDS[str(f.type)]
        if not isinstance(value, kind) or (isinstance(value, bool) and f.type != "bool"):
            raise ValueError(f"{name} is {value!r}; it must be of type {f.type}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is {value}; it must be a finite number")
        check = f.metadata.get("check")
        if check and not check[0](value):
            raise ValueError(f"{name} is {value}; it must be {check[1]}")

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON-ready dict."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Any:
        """The inverse of `to_json`. An entry that is missing is of an option that came later, whose
        default is what was done before. Raises ValueError for unknown or wrong entries, and for
        missing ones without a default."""
        options = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(data, Mapping):
            raise ValueError(f"{cls.__name__} is a {type(data).__name__}, not an object")
        missing = {name for name, f in options.items() if f.default is MISSING} - data.keys()
        if odd := sorted(missing | data.keys() - options.keys()):
            raise ValueError(f"{cls.__name__} has other entries than expected: {odd}")
        return cls(**data)
