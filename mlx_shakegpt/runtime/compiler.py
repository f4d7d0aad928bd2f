"""A better `g++` for MLX's Linux CPU build, which compiles its fused kernels when they are needed.

MLX calls whatever `g++` is first on PATH, asks for plain x86-64 code, and has it parse a second's
worth of headers for each of some forty kernels. Here a script of that name asks for this machine's
own instructions and compiles the headers once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from shlex import quote

import mlx.core as mx

from ..files import sha256, write_atomically

_HEADER = "mlx/backend/cpu/compiled_preamble.h"  # what every kernel includes
_FLAGS = " ".join(
    (
        "-march=native",
        # sqrt and comparisons are vectorised only where errno and traps need not be kept.
        "-fno-math-errno -fno-trapping-math",
        # AdamW's kernel has more arrays than GCC by default tests for overlap, and stays scalar.
        "--param vect-max-version-for-alias-checks=1000",
    )
)
# A kernel is compiled under another name and moved into place, as another process may look for it;
# the second -o overrules MLX's, which is its last argument.
_SCRIPT = """#!/bin/sh
# Stands in for {gxx} where MLX compiles kernels: this processor's instructions, headers read once.
case "$*" in *-shared*) ;; *) exec {gxx} "$@" ;; esac
trap '' INT TERM HUP  # which a terminal sends to this too, where a training wants to end its step
flags='{flags}'
header={here}/include/{header}.gch
if [ ! -e "$header" ]; then
    {gxx} -std=c++17 -O3 -Wall -fPIC $flags -w -I{include} -x c++-header \\
        {include}/{header} -o "$header.$$" && mv "$header.$$" "$header"
fi
for target; do :; done
{gxx} -I{here}/include $flags "$@" -o "$target.$$" && mv "$target.$$" "$target"
"""


def use_native_kernels(local_rank: int = 0) -> str:
    """Puts the script before `g++` on this process's PATH; returns why not, or an empty string.

    Script and kernels are kept in the user's cache folder, apart for each processor, compiler and
    MLX. TMPDIR, below which MLX keeps its kernels, is set to that place; for a later one of several
    ranks on this machine to a folder of its own there, as MLX does not lock what it writes.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx-shakegpt"
    # A parent process may have handed down a PATH that begins with the script.
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    path = os.pathsep.join(f for f in folders if Path(f).parent.parent != cache)
    gxx = shutil.which("g++", path=path)
    if gxx is None:
        return "no g++"
    include = Path(mx.__file__).parent / "include"
    if not (include / _HEADER).is_file():
        return f"MLX came without {_HEADER}"
    here = cache / f"kernels-{_key(gxx, include)}"
    script = here / "bin" / "g++"
    try:
        own = here / f"rank-{local_rank}" if local_rank else here
        own.mkdir(parents=True, exist_ok=True)
        (here / "include" / _HEADER).parent.mkdir(parents=True, exist_ok=True)
        if not os.access(script, os.X_OK):  # nor after a crash before it was made executable
            names = {"gxx": gxx, "here": str(here), "include": str(include), "header": _HEADER}
            quoted = {name: quote(value) for name, value in names.items()}
            write_atomically(script, _SCRIPT.format(flags=_FLAGS, **quoted))
            script.chmod(0o755)
        if own != here:
            _borrow(here, own)
    except OSError as error:
        return f"cannot write {error.filename}"
    tempfile.gettempdir()  # Python's own temporary files stay where they are
    os.environ["TMPDIR"] = str(own)
    os.environ["PATH"] = f"{script.parent}{os.pathsep}{path}"
    return ""


def _borrow(here: Path, own: Path) -> None:
    """Links what was compiled in one folder into another."""
    for kernel in here.glob("mlx/**/*.so"):
        link = own / kernel.relative_to(here)
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # it is there, or else will be compiled
            os.link(kernel, link)


def compiled(name: str, source: str) -> Path | None:
    """The shared library of some C++ source, compiled once and kept beside MLX's kernels.

    None where that is not possible. `use_native_kernels` must have succeeded.
    """
    here = Path(os.environ["TMPDIR"])
    stem = f"{name}-{sha256(source.encode())[:12]}"
    library, file = here / f"{stem}.so", here / f"{stem}.cpp"
    if not library.exists():
        try:
            write_atomically(file, source)
            command = ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", "-pthread"]
            command += [str(file), "-o", str(library)]
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
    return library


def _key(gxx: str, include: Path) -> str:
    """Names what a compiled kernel depends on, beside its source."""
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0].splitlines()
    parts = [line for line in information if line.startswith(("model name", "flags", "Features"))]
    for file in (Path(gxx).resolve(), include / _HEADER, Path(mx.__file__)):
        stat = file.stat()
        parts.append(f"{file} {stat.st_size} {stat.st_mtime_ns}")
    return sha256("\n".join([*parts, _SCRIPT, _FLAGS]).encode())[:16]
