"""What the scripts share: processes that take turns, the speed of products, the machine's name."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
OPTIMIZERS = click.Choice(["muon", "adamw"])
# Where set, OpenBLAS takes kernels for another processor.
_SLOW = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment() -> dict[str, str]:
    """This process's environment with OpenBLAS free to choose its kernels."""
    return {k: v for k, v in os.environ.items() if k not in _SLOW}


class Worker:
    """A script in a process of its own, which answers each question with one JSON object."""

    def __init__(self, script: str, *arguments: str) -> None:
        """Waits until the script says that it is ready."""
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
        )
        self._line()

    def ask(self, question: int = 0) -> dict:
        self.tell(question)
        return json.loads(self._line())

    def tell(self, question: int) -> None:
        """Asks, and does not wait for the answer."""
        self.process.stdin.write(f"{question}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"Error: {' '.join(self.process.args)} ended early; see above")
        return line


def settings(text: str) -> dict[str, Any]:
    """Fields of TrainConfig from `field=value,…`."""
    from mlx_shakegpt.settings.config import TrainConfig

    kinds = {field: type(value) for field, value in TrainConfig().to_json().items()}
    chosen: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        field, _, value = pair.partition("=")
        if field not in kinds:
            raise click.BadParameter(f"no setting {field!r}; there are {', '.join(sorted(kinds))}")
        read = {"True": True, "False": False}.__getitem__ if kinds[field] is bool else kinds[field]
        try:
            chosen[field] = read(value)
        except (KeyError, ValueError):
            kind = kinds[field].__name__
            raise click.BadParameter(f"{field} is {value!r}, which is no {kind}") from None
    return chosen


def mean_gflops(seconds: float) -> float:
    """Mean GFLOP/s of square float32 products over some time, in MLX."""
    import mlx.core as mx

    size = 1024
    a = mx.ones((size, size)) * 0.5
    mx.eval(a)
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        mx.eval(a @ a)
        count += 1
    return 2 * size**3 * count / (time.perf_counter() - start) / 1e9


def machine() -> str:
    """One line: processor, cores, BLAS and versions."""
    command = [sys.executable, "cli.py", "info", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True)
    about = json.loads(done.stdout)
    parts = [about["name"], f"{os.cpu_count()} cores"]
    if about["blas"]:
        parts.append(about["blas"]["name"])
    for package in ("mlx", "mlx-lm", "torch", "transformers"):
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts) + "."
