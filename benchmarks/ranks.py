"""The training step on one process with all cores, and on two ranks with half of them each.

    python benchmarks/ranks.py [PRESET] [--optimizer adamw] [--batch-size 16] [--context 64]

The ranks share each batch through MLX's ring (TCP over loopback), and through Open MPI where it is
installed. What they exchange is also timed by itself: the average of the gradients, the losses of
the targets, and the batch's loss.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import click
import common

from mlx_shakegpt.sharing import markdown

ONE, HALF, RING, MPI = "1 process, all cores", "1 process, half", "2 ranks, ring", "2 ranks, MPI"
ROOT_MAY = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def worker(name: str, batch_size: int, context: int, optimizer: str, steps: int) -> None:
    import mlx.core as mx

    from mlx_shakegpt.model.trees import flat
    from mlx_shakegpt.runtime import setup
    from mlx_shakegpt.runtime.ranks import join
    from mlx_shakegpt.settings.presets import preset, recipe
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer

    ranks = join(setup().launch, 300)
    changes = {"batch_size": batch_size, "context": context, "short_context": 0}
    changes["optimizer"] = optimizer
    config = recipe("recite", name, dtype="float32", **changes)
    ids = Corpus.load(None, preset(name).passage).ids
    trainer = Trainer(preset(name).model, config, ids, lambda *_: None, ranks=ranks)
    step = trainer.compiled_step(len(trainer.model.h))
    seconds, exchanges = [], []
    gradients = trainer.model.trainable_parameters()
    share = mx.zeros((-(-batch_size // ranks.size), context))
    for number in range(steps + 1):
        ranks.wait()
        start = time.perf_counter()
        mx.eval(*step(trainer.batch(number), config.lr))
        seconds.append(time.perf_counter() - start)
        ranks.wait()
        start = time.perf_counter()
        mx.eval(ranks.average(gradients), ranks.concatenate(share), ranks.mean(mx.zeros(2)))
        exchanges.append(time.perf_counter() - start)
    if ranks.rank == 0:
        figures = {
            "step": statistics.median(seconds[1:]),
            "exchange": statistics.median(exchanges[1:]) if ranks.size > 1 else 0.0,
            "bytes": sum(value.nbytes for value in flat(gradients).values()),
        }
        print(json.dumps(figures), flush=True)
    ranks.wait()
    ranks.close()


def measured(kind: str, arguments: list[str]) -> dict:
    """What rank 0 of some processes of this script tells."""
    command = [sys.executable, __file__, *arguments, "--worker"]
    environment = common.environment() | ROOT_MAY | {"PYTHONPATH": str(common.ROOT)}
    cores = os.cpu_count() or 1
    threads = cores if kind == ONE else max(1, cores // 2)
    environment["OPENBLAS_NUM_THREADS"] = str(threads)
    if kind == MPI:
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", *command]
    if kind != RING:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)
    import socket

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as hosts:
        free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        json.dump([[f"127.0.0.1:{one.getsockname()[1]}"] for one in free], hosts)
        hosts.flush()
        for one in free:
            one.close()
        processes = [
            subprocess.Popen(
                command,
                env=environment | {"MLX_RANK": str(rank), "MLX_HOSTFILE": hosts.name},
                stdout=subprocess.PIPE,
            )
            for rank in range(2)
        ]
        outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("Error: a rank failed; see above")
    return json.loads(outputs[0])


@click.command()
@click.argument("name", default="gpt2-124m")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--context", default=64, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--steps", default=4, show_default=True, help="Timed in each round.")
@click.option("--optimizer", type=common.OPTIMIZERS, default="muon", show_default=True)
@click.option("--worker", "as_worker", is_flag=True, hidden=True)
def main(
    name: str, batch_size: int, context: int, rounds: int, steps: int, optimizer: str,
    as_worker: bool,
) -> None:  # fmt: skip
    if as_worker:
        worker(name, batch_size, context, optimizer, steps)
        return
    kinds = [ONE, HALF, RING] + ([MPI] if shutil.which("mpirun") else [])
    options = ["--batch-size", batch_size, "--context", context, "--steps", steps]
    options += ["--optimizer", optimizer]
    arguments = [name, *map(str, options)]
    by_kind: dict[str, list[dict]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:  # in turn, as a shared machine changes by the minute
            by_kind[kind].append(measured(kind, arguments))
    rows = []
    for kind in kinds:
        of_kind = by_kind[kind]
        ratios = [a["step"] / b["step"] for a, b in zip(by_kind[ONE], of_kind, strict=True)]
        share = statistics.median(t["exchange"] / t["step"] for t in of_kind)
        moved = of_kind[0]["bytes"] / max(statistics.median(t["exchange"] for t in of_kind), 1e-9)
        alone = kind in (ONE, HALF)
        rows.append(
            [
                kind,
                f"{statistics.median(t['step'] for t in of_kind):.2f} s",
                f"{statistics.median(ratios):.2f} ×",
                "" if alone else f"{share:.0%}",
                "" if alone else f"{moved / 1e9:.2f} GB/s",
            ]
        )
    head = ["", "step", "speed, of the first", "share of its exchange", "gradients exchanged at"]
    click.echo(markdown.table(head, rows))
    size = by_kind[ONE][0]["bytes"] / 1e6
    click.echo(
        f"\n{name}, {optimizer}, {batch_size} × {context}, {size:,.0f} MB of float32 gradients; "
        f"medians of {rounds} rounds of {steps} steps. {common.machine()}"
    )


if __name__ == "__main__":
    main()
