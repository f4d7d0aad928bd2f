"""The certificate and map in a model's folder: whose they are, and how they make way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..files import sha256
from ..settings.config import Passage
from .certificates import hash_mismatches, passage_of, read

CERTIFICATE, MAP = "certificate.json", "memory-map.png"


def set_aside(folder: Path) -> Path | None:
    """Renames certificate and map, so that they no longer count as the folder's; they keep their
    names but for the first digits of the certificate's hash. Returns the certificate's new path,
    None where there is none."""
    file = folder / CERTIFICATE
    if not file.is_file():
        return None
    mark = sha256(file)[:12]
    for name in (MAP, CERTIFICATE):
        path = folder / name
        if path.exists():
            path.rename(path.with_stem(f"{path.stem}-{mark}"))
    return file.with_stem(f"{file.stem}-{mark}")


def set_aside_others(
    folder: Path, hashes: Mapping[str, str], passage: Passage | None = None
) -> Path | None:
    """Sets certificate and map aside unless they are of the text and weights, or one of the two, of
    which `hashes` has the sha256, and of the passage where it matters; also damaged ones."""
    file = folder / CERTIFICATE
    if not file.is_file():
        return None
    try:
        certificate = read(file)
    except ValueError:
        return set_aside(folder)
    same = not hash_mismatches(certificate, dict(hashes)) and passage in (
        None,
        passage_of(certificate),
    )
    return None if same else set_aside(folder)


def set_aside_unless_of(folder: Path, weights: Path) -> None:
    """Sets certificates and maps aside, of each text that a model learned, unless they are of the
    weights in a file."""
    certificates = [*folder.glob(CERTIFICATE), *folder.glob(f"texts/*/{CERTIFICATE}")]
    if certificates:
        hashes = {"weights": sha256(weights)}
        for certificate in certificates:
            set_aside_others(certificate.parent, hashes)
