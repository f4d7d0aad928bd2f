"""A run's certificate in short, for a page: shown only beside the text and weights that it is of.

Without MLX, and so without `verification`; the tests compare names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json, sha256
from .checkpoint_progress import FINAL, checkpoints

CERTIFICATE, FORMAT = "certificate.json", "mlx-shakegpt certificate 4"


class ShownCertificate:
    """What stands in a run's folder, read anew each time; weights are hashed once a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._hashed: tuple[tuple[Path, int, int], str] | None = None

    def of_text(self, text: str) -> dict[str, Any] | None:
        """Whether it certifies, its loss and rates; None without one that can be read and is of the
        text with this sha256 and of the run's newest weights."""
        try:
            certificate = read_json(self.folder / CERTIFICATE)
            shown = _in_short(certificate)
            if certificate["format"] != FORMAT or certificate["text"]["sha256"] != text:
                return None
            return shown if certificate["weights"]["sha256"] == self._weights() else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None

    def _weights(self) -> str:
        """The sha256 of the final weights, else of the newest checkpoint's. Raises OSError."""
        file = self.folder / FINAL
        if not file.exists() and (saved := checkpoints(self.folder)):
            file = saved[0] / FINAL
        stat = file.stat()
        version = file, stat.st_mtime_ns, stat.st_size
        if self._hashed is None or self._hashed[0] != version:
            self._hashed = version, sha256(file)
        return self._hashed[1]


def _in_short(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Raises ValueError, KeyError, TypeError or OverflowError where it is none."""
    rates = [{name: e[name] for name in ("k", "m", "rate")} for e in certificate["extraction"]]
    numbers = [certificate["nll"], *(value for rate in rates for value in rate.values())]
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        raise ValueError("a figure is no number")
    certified = certificate["certified"] is True
    return {"certified": certified, "nll": certificate["nll"], "rates": rates}
