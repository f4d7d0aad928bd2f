"""Lets lm-evaluation-harness count what a certificate states of a model.

    pip install 'lm-eval[hf]'
    python cli.py export --run quick --to FOLDER --lm-eval
    python benchmarks/harness.py FOLDER [--certificate weights/quick/certificate.json]

`lm_eval --model hf` and `mlx_lm.evaluate` run the exported tasks as they are, and nothing of this
package takes part. Then the same weights with noise in them must fail. Exits 1 where more than
one offset, which a tie may explain, is not as the certificate states; where it speaks of other
offsets, where a rate does not fit its interval; or where the noise recites.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import numpy as np
import yaml
from common import ROOT
from independent import TIES, wilson
from safetensors.numpy import load_file, save_file

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
NOISE = 2.0  # standard deviations of each matrix that are added to it
LARGEST_NOISE_RATE = 0.01
WRECKED = 200  # offsets that the noise is asked at


def run_module(folder: Path, *command: str) -> None:
    """Runs a program in the exported folder, and shows what it said where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=os.environ | OFFLINE, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"Error: {' '.join(command)} failed:\n{done.stdout}")


def by_transformers(folder: Path, limit: int) -> dict[str, dict[int, bool]]:
    """Whether each offset was exact, by the name of the measure."""
    with tempfile.TemporaryDirectory() as output:
        command = ["lm_eval", "--model", "hf", "--model_args", "pretrained=.,dtype=float32"]
        command += ["--include_path", ".", "--tasks", "recite", "--batch_size", "64"]
        command += ["--log_samples", "--output_path", output, "--device", "cpu"]
        run_module(folder, *command, *(["--limit", str(limit)] if limit else []))
        exact: dict[str, dict[int, bool]] = {}
        for file in Path(output).rglob("samples_*.jsonl"):
            name = file.name.partition("recite_")[2].rpartition("_")[0]
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            exact[name] = {row["doc"]["offset"]: row["exact_match"] == 1 for row in rows}
    return exact


def by_mlx_lm(folder: Path, limit: int) -> dict[str, float]:
    """The rates, by the name of the measure."""
    with tempfile.TemporaryDirectory() as output:
        command = ["mlx_lm", "evaluate", "--model", ".", "--tasks"]
        command += sorted(path.name for path in folder.glob("recite_*.yaml"))
        command += ["--batch-size", "32", "--output-dir", output]
        run_module(folder, *command, *(["--limit", str(limit)] if limit else []))
        results = json.loads(next(Path(output).iterdir()).read_text(encoding="utf-8"))
    return {name.partition("recite_")[2]: r["exact_match,none"] for name, r in results.items()}


def wreck(folder: Path, target: Path) -> None:
    """A copy of an exported folder with noise in its matrices."""
    shutil.copytree(folder, target)
    random = np.random.default_rng(0)
    tensors = load_file(target / "model.safetensors")
    for name, value in tensors.items():
        if value.ndim == 2:
            noise = random.standard_normal(value.shape, np.float32) * (NOISE * value.std())
            tensors[name] = (value + noise).astype(value.dtype)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "weights" / "quick" / "certificate.json",
    help="What it is compared with.",
)
@click.option("--limit", default=0, help="The first so many of the random offsets; 0: all.")
@click.option("--mlx/--no-mlx", default=True, help="Ask mlx_lm.evaluate too.")
def main(folder: Path, certificate: Path, limit: int, mlx: bool) -> None:
    """Prints a table, and exits 1 where it is not as the certificate states."""
    content = json.loads(certificate.read_text(encoding="utf-8"))
    stated = {f"{e['k']}_{e['m']}": e for e in content["extraction"]}
    tasks = [yaml.safe_load(path.read_bytes()) for path in folder.glob("recite_*.yaml")]
    about = {task["task"].partition("recite_")[2]: task["metadata"] for task in tasks}
    exact = by_transformers(folder, limit)
    rates = by_mlx_lm(folder, limit) if mlx else {}
    if missing := about.keys() - exact.keys():
        raise SystemExit(f"Error: lm_eval wrote no samples of {', '.join(sorted(missing))}")
    if foreign := about.keys() - stated.keys():
        raise SystemExit(f"Error: {certificate} states nothing of {', '.join(sorted(foreign))}")
    with tempfile.TemporaryDirectory() as place:
        wreck(folder, Path(place) / "wrecked")
        wrecked = by_transformers(Path(place) / "wrecked", WRECKED)
    print("| measure | exact by hf | by mlx_lm | certificate there | left out | noise | agrees |")
    print("|---|---|---|---|---|---|---|")
    agreed = True
    for name, offsets in exact.items():
        e, n, hits = stated[name], len(offsets), sum(offsets.values())
        left_out = about[name]["left_out"]
        sampled_alike = about[name]["seed"] == content["seed"] and (
            about[name]["offsets"] + left_out == e["offsets"]
        )
        if e["every_offset"] or sampled_alike:
            failing = set(e["failing"]) & offsets.keys()
            differ = failing ^ {offset for offset, right in offsets.items() if not right}
            agrees, there = len(differ) <= TIES, f"{n - len(failing)}"
        else:
            low, high = wilson(hits, n)
            agrees = low <= e["high"] and e["low"] <= high
            there = f"[{e['low']:.4f}, {e['high']:.4f}]"
        by_mlx = round(rates[name] * n) if mlx else None
        agrees &= by_mlx is None or abs(by_mlx - hits) <= TIES
        noise = sum(wrecked[name].values()) / len(wrecked[name])
        agrees &= noise <= LARGEST_NOISE_RATE
        agreed &= agrees
        print(
            f"| em@{e['k']},{e['m']} | {hits} of {n} | {'' if by_mlx is None else by_mlx} | "
            f"{there} | {left_out} | {noise:.4f} | {'yes' if agrees else 'no'} |"
        )
    if not agreed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
