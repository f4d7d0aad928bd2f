"""Files that appear whole or not at all, their hashes, and where the project keeps them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = "mlx-shakegpt"
_UMASK = os.umask(0)  # asked once: asking sets it, for the files of other threads too
os.umask(_UMASK)
FINDERS = ".DS_Store"  # what macOS's Finder leaves in any folder that it has shown


def home() -> Path:
    """The folder that holds `data/` and `weights/`.

    `SHAKEGPT_HOME` where it is set, else the checkout, else the user's own data folder.
    """
    if chosen := os.environ.get("SHAKEGPT_HOME"):
        return Path(chosen).expanduser()
    if own := checkout():
        return own
    from platformdirs import user_data_path

    return user_data_path(PROJECT, appauthor=False)


@cache
def checkout() -> Path | None:
    """The checkout that this package lies in, if it does: beside it stands a pyproject.toml of this
    project, and not of another one that it was installed or copied into."""
    folder = Path(__file__).resolve().parent.parent
    try:
        with open(folder / "pyproject.toml", "rb") as file:
            name = tomllib.load(file)["project"]["name"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return folder if name == PROJECT else None


def data_dir() -> Path:
    """Where the corpus and the vocabulary are kept."""
    return home() / "data"


def weights_dir() -> Path:
    """Where each run has its folder."""
    return home() / "weights"


def sha256(data: bytes | Path) -> str:
    """Hex SHA-256 of some bytes or of a file's content."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with open(data, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_text(name: str) -> str:
    """The name of a file as text that can be written; bytes that are not UTF-8 become U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def must_be_empty(folder: Path) -> None:
    """Raises ValueError where a folder to be written holds something already."""
    if not folder.exists():
        return
    if not folder.is_dir() or any(file.name != FINDERS for file in folder.iterdir()):
        raise ValueError(f"{folder} exists and is not an empty folder; choose another")


def must_not_exist(path: Path) -> None:
    """Raises ValueError where a file to be written exists, be it a link that leads nowhere."""
    if os.path.lexists(path):
        raise ValueError(f"{path} exists; choose another name")


def sync(path: Path) -> None:
    """Forces a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(fcntl, "F_FULLFSYNC"):  # on macOS fsync leaves it in the drive's own memory
            with suppress(OSError):  # which not every file system knows
                fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
    finally:
        os.close(handle)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; on success it replaces `path`, otherwise it is removed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "this is a folder", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_UMASK)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str) -> None:
    """Writes `data` to `path` whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises FileNotFoundError, or ValueError if it is none."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: not a JSON object")
    return data
