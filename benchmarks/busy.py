"""The training step beside other programs that want the same cores: ours and PyTorch's.

    python benchmarks/busy.py [PRESET:BxT …] [--seconds 10] [--rounds 2]

Each contender is a process of its own and takes steps for some seconds: alone, beside one and two
processes that do nothing but count, and beside a second process of its own kind. All take turns.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import click
import common
import training

from mlx_shakegpt.sharing import markdown

os.environ["SHAKEGPT_DEVICE"] = "cpu"  # where the programs beside it compute

CASES = ("quick:4x64", "gpt2-124m:16x64")
CONTENDERS = ("ours", "PyTorch fp32")
CONDITIONS = ("alone", "beside one busy process", "beside two", "beside one of its own kind")
FOREVER = 10**6  # seconds


def work(case: str, contender: str, weights: str) -> None:
    """Answers each number of seconds on stdin with the times of the steps that fit, at least two;
    the first two steps compile and warm up."""
    step, batch = training.stepper(case, contender, weights)
    index = 0
    for line in sys.stdin:
        times: list[float] = []
        end = time.perf_counter() + float(line)
        while len(times) < 2 or time.perf_counter() < end:
            times.append(step(batch(index))["seconds"])
            index += 1
        print(json.dumps(times), flush=True)


@contextmanager
def beside(condition: str, case: str, contender: str, folder: str):
    """Keeps the condition up."""
    count = {"beside one busy process": 1, "beside two": 2}.get(condition, 0)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        if condition == CONDITIONS[-1]:
            twin = start(case, contender, f"{folder}/twin.safetensors", folder)
            others.append(twin.process)
            twin.tell(FOREVER)
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()


def start(case: str, contender: str, weights: str, folder: str) -> common.Worker:
    """A contender that has taken two steps."""
    if contender != "ours":  # begins with the weights that ours has written
        weights = f"{folder}/ours.safetensors"
    worker = common.Worker(__file__, "--worker", case, contender, weights)
    worker.ask(0)
    return worker


def measure(case: str, seconds: float, rounds: int) -> list[list[str]]:
    times: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        workers = {c: start(case, c, f"{folder}/ours.safetensors", folder) for c in CONTENDERS}
        for _ in range(rounds):
            for condition in CONDITIONS:
                for contender, worker in workers.items():
                    with beside(condition, case, contender, folder):
                        durations = worker.ask(seconds)
                    times.setdefault((contender, condition), []).extend(durations)
        for worker in workers.values():
            worker.close()
    rows = []
    for contender in CONTENDERS:
        means = [statistics.mean(times[contender, condition]) for condition in CONDITIONS]
        cells = [f"{mean:.3f} s" if mean < 1 else f"{mean:.2f} s" for mean in means]
        cells[1:] = [f"{c} ({m / means[0]:.2f})" for c, m in zip(cells[1:], means[1:], strict=True)]
        longest = max(times[contender, CONDITIONS[-1]])
        rows.append([case.replace(":", " ").replace("x", " × "), contender, *cells])
        rows[-1].append(f"{longest:.2f} s")
    return rows


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--seconds", default=10.0, show_default=True, help="For each contender at a time.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--worker", nargs=3, hidden=True)
def main(
    cases: tuple[str, ...], seconds: float, rounds: int, worker: tuple[str, str, str] | None
) -> None:
    if worker:
        return work(*worker)
    rows = []
    for case in cases or CASES:
        rows += measure(case, seconds, rounds)
    header = ["preset, batch × context", "program", *CONDITIONS, "longest step there"]
    click.echo(markdown.table(header, rows))
    click.echo(f"\nMean seconds a step (times alone); {rounds} rounds. {common.machine()}")


if __name__ == "__main__":
    main()
