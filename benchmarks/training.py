"""The training step beside PyTorch's: same weights, batches and loss, taken in turns.

    python benchmarks/training.py [PRESET:BxT …] [--rounds 2] [--seconds 20]

Each contender is a process of its own and takes one step a round, so that all meet the same
machine. Matrix products, for as long as our step takes, are timed around it: the share of peak is
what the step's own products would take at that speed, over what the step took.
"""

import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import common

from mlx_shakegpt.runtime import peak_resident_bytes
from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.sharing import markdown

os.environ["SHAKEGPT_DEVICE"] = "cpu"  # where the programs beside it compute

CASES = ("gpt2-124m:16x64", "gpt2-124m:4x256", "gpt2-124m:2x512", "quick:4x64", "quick:2x128")
SLOWEST = "PyTorch bf16 autocast"
CONTENDERS = ("ours", "PyTorch fp32", SLOWEST)


def work(case: str, contender: str, weights: str) -> None:
    """Answers each line on stdin with one step's time, loss and this process's memory so far."""
    step, batch = stepper(case, contender, weights, beside_products)
    for index, _ in enumerate(sys.stdin):
        answer = step(batch(index)) | {"bytes": peak_resident_bytes()}
        print(json.dumps(answer), flush=True)


def stepper(case, contender, weights, measured=lambda step, _: step):
    """A contender's step, from a batch to its seconds and loss, and the batches by their number.

    `measured` makes another step of ours and of how many operations its products take.
    """
    name, B, T = parse(case)
    shape = {"batch_size": B, "context": T, "short_context": 0}
    shape |= {"positions": "learned", "optimizer": "adamw", "zero_residual": False}
    config = recipe("recite", name, dtype="float32", **shape)
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training.windows import Windows

    ids = Corpus.load(None, preset(name).passage).ids
    windows = Windows(ids, B, T, config.seed, config.jitter)
    if contender == "ours":
        step = measured(*ours(name, config, ids, weights))
    else:
        step = theirs(name, config, weights, "bf16" in contender)
    return step, windows.batch


def ours(name, config, ids, weights):
    from mlx_shakegpt import runtime
    from mlx_shakegpt.training import cost

    runtime.setup()
    import mlx.core as mx

    from mlx_shakegpt.model.language_model import LanguageModel
    from mlx_shakegpt.training import Step, Trainer
    from mlx_shakegpt.weights import full_tensors
    from mlx_shakegpt.weights.safetensors import save_tensors

    trainer = Trainer(preset(name).model, config, ids, lambda *_: None)
    language_model = LanguageModel(trainer.model, trainer.vocabulary, config.context)
    save_tensors(Path(weights), full_tensors(language_model))
    run = Step(trainer.model, trainer.optimizer, config.clip, trainer.absent)
    rows = trainer.model.wte.weight.shape[0]
    model = preset(name).model
    flops = cost.product_flops(model, config.tokens_per_step, config.context, rows)
    flops += cost.update_flops(model, config, runtime.setup().device == "cpu")

    def step(batch):
        closed = dataclasses.replace(
            batch,
            inputs=trainer.vocabulary.rows_of(batch.inputs),
            targets=trainer.vocabulary.rows_of(batch.targets),
        )
        start = time.perf_counter()
        result = run(closed, config.lr)
        mx.eval(*result)
        return {"seconds": time.perf_counter() - start, "loss": float(result.loss)}

    print("ready", flush=True)
    return step, flops


def beside_products(step, flops):
    """A step that also tells its share of the speed that products have right before and after."""
    last = 0.5

    def measured(batch):
        nonlocal last
        before = common.mean_gflops(last / 2)
        answer = step(batch)
        last = answer["seconds"]
        gflops = (before + common.mean_gflops(last / 2)) / 2
        return answer | {"share": flops / last / 1e9 / gflops, "gflops": gflops}

    return measured


def theirs(name, config, weights, low):
    import torch
    from torch_gpt2 import GPT, Step

    torch.set_num_threads(os.cpu_count())
    m = preset(name).model
    model = GPT(m.n_layer, m.n_head, m.n_embd, m.n_positions, m.vocab_size)
    model.load(weights)
    run = Step(model, (config.beta1, config.beta2), config.clip, low)
    print("ready", flush=True)

    def step(batch):
        start = time.perf_counter()
        loss = run(batch.inputs, batch.targets, batch.weights, config.lr)
        return {"seconds": time.perf_counter() - start, "loss": loss}

    return step


def parse(case: str) -> tuple[str, int, int]:
    name, _, shape = case.partition(":")
    B, T = map(int, shape.split("x"))
    return name, B, T


def measure(case: str, rounds: int, seconds: float) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.safetensors")
        workers = {}
        for contender in CONTENDERS:
            workers[contender] = common.Worker(__file__, "--worker", case, contender, weights)
        answers = {c: {} for c in CONTENDERS}  # answers by number of step
        spent = dict.fromkeys(CONTENDERS, 0.0)
        for number in range(rounds + 1):
            for contender, worker in workers.items():
                if spent[contender] > seconds and contender == SLOWEST:
                    continue
                answers[contender][number] = worker.ask()
                if number or contender == SLOWEST:
                    spent[contender] += answers[contender][number]["seconds"]
        for worker in workers.values():
            worker.close()
    ours = answers["ours"]
    usual = statistics.median(a["seconds"] for n, a in ours.items() if n)
    share = statistics.median(a["share"] for n, a in ours.items() if n)
    rows = []
    for contender in CONTENDERS:
        mine = answers[contender]
        # The first step compiles, allocates and warms up; it counts only where there is no other.
        timed = {n: a["seconds"] for n, a in mine.items() if n or len(mine) == 1}
        ratios = [t / (ours[n]["seconds"] if n else usual) for n, t in timed.items()]
        apart = max(abs(ours[n]["loss"] - a["loss"]) for n, a in mine.items())
        bytes_ = list(mine.values())[-1]["bytes"]
        rows.append(
            [
                case.replace(":", " ").replace("x", " × "),
                contender,
                f"{statistics.median(timed.values()):.2f} s",
                f"{statistics.median(ratios):.2f}",
                f"{share:.0%}" if mine is ours else "",
                f"{bytes_ / 1e9:.2f} GB",
                f"{list(ours.values())[-1]['bytes'] / bytes_:.0%}",
                f"{apart:.1e}",
            ]
        )
    return rows


@click.command()
@click.argument("cases", nargs=-1)
@click.option("--rounds", default=2, show_default=True)
@click.option(
    "--seconds", default=20.0, show_default=True, help="After which bf16 autocast drops out."
)
@click.option("--worker", nargs=3, hidden=True)
def main(
    cases: tuple[str, ...], rounds: int, seconds: float, worker: tuple[str, str, str] | None
) -> None:
    if worker:
        return work(*worker)
    rows = []
    for case in cases or CASES:
        rows += measure(case, rounds, seconds)
    header = ["preset, batch × context", "program", "step", "times ours", "of peak sgemm"]
    header += ["peak memory", "ours over it", "losses differ by"]
    click.echo(markdown.table(header, rows))
    click.echo(f"\nMedians of up to {rounds} rounds. {common.machine()}")


if __name__ == "__main__":
    main()
