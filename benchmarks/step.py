"""Step time and peak memory of the presets, each in a process of its own.

    python benchmarks/step.py [PRESET …] [--repeats 5]

Prints one Markdown table, and names the machine, its BLAS and the versions.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click

from mlx_shakegpt import report
from mlx_shakegpt.config import PRESETS

ROOT = Path(__file__).parent.parent


@click.command()
@click.argument("presets", nargs=-1)
@click.option("--repeats", default=5, show_default=True)
def main(presets: tuple[str, ...], repeats: int) -> None:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
    }
    rows = []
    for name in presets or PRESETS:
        command = [sys.executable, "cli.py", "bench", "--preset", name, "--json"]
        command += ["--repeats", str(repeats)]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as child:
            told = json.loads(child.stdout.read())
            _, _, usage = os.wait4(child.pid, 0)
        train = told["train"]
        # Kilobytes on Linux, bytes on macOS.
        whole = usage.ru_maxrss * (1024 if sys.platform == "linux" else 1)
        rows.append(
            [
                name,
                f"{PRESETS[name].model.n_parameters:,}",
                f"{train['batch_size']} × {train['context']}",
                f"{train['seconds']:.2f} s",
                f"{train['tokens_per_second']:.0f}",
                f"{train['share_of_peak']:.0%}",
                f"{told['peak_bytes'] / 1e9:.2f} GB",
                f"{whole / 1e9:.2f} GB",
            ]
        )
    header = ["preset", "parameters", "batch", "step", "tokens/s", "of peak sgemm"]
    click.echo(report.table([*header, "MLX peak", "process peak"], rows))
    info = [sys.executable, "cli.py", "info", "--json"]
    about = json.loads(subprocess.run(info, cwd=ROOT, capture_output=True, check=True).stdout)
    click.echo(
        f"\n{about['name']}, {os.cpu_count()} cores; {about['blas']['name']}, "
        f"{about['blas']['gflops']} GFLOP/s; MLX {version('mlx')}; median of {repeats} steps."
    )


if __name__ == "__main__":
    main()
