"""Settings of the training beside each other, in exposures: how well a text is known after so many
epochs. Single-threaded processes run side by side, one line a run; every result is kept.

    python benchmarks/search.py NAME:field=value,… … [--tokens 16384] [--epochs 12] [--seeds 0,1]
    python benchmarks/search.py --show

A row has the text's loss after each of `--at` epochs, on a fixed sample of its places, each token
scored with half a window before it; and at the end its accuracy and em@50,50, where windows are
long enough. A run with `stop=known` ends as `train`'s does, and is then verified as by `verify`.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from common import ROOT, settings

KEPT = Path(__file__).parent / "search.jsonl"
# Unless a setting says otherwise: a held rate, and windows of one length.
COMMON = "hold=1,short_context=0,context=64,batch_size=8,lr=5e-4,beta2=0.99,hard=0.65"
SCORED = 4096  # tokens of a sample
OFFSETS = 400  # of em@50,50


def train(job: dict) -> dict:
    """One run in this process: losses by epoch, and what is known at the end."""
    import numpy as np

    from mlx_shakegpt import runtime
    from mlx_shakegpt.model.language_model import LanguageModel
    from mlx_shakegpt.run.evaluated_trainer import trainer_of
    from mlx_shakegpt.runtime.ranks import ALONE
    from mlx_shakegpt.settings.config import ModelConfig, Passage, TrainConfig, VerifyConfig
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer
    from mlx_shakegpt.verification.extraction import extraction, sample
    from mlx_shakegpt.verification.figures import Text, measure
    from mlx_shakegpt.verification.loss import Evaluation, window_scores

    runtime.setup()
    layers, heads, width = map(int, job["model"].split("x"))
    changes = {"warmup_steps": 40} | settings(COMMON) | settings(job["settings"])
    changes |= {"epochs": job["epochs"], "seed": job["seed"], "finish": False}
    config = TrainConfig(**changes)
    corpus = Corpus.load(None, Passage(job["first_line"], job["tokens"]))
    ids = corpus.ids
    model = ModelConfig(layers, heads, width, max(128, config.context))
    half = config.context // 2
    places = np.random.default_rng(5).integers(
        0, len(ids) - config.context, min(SCORED, len(ids)) // half
    )
    windows = ids[places[:, None] + np.arange(config.context + 1)]
    if known := config.stop == "known":
        trainer = trainer_of(model, config, corpus, None, ALONE)
    else:
        none = Evaluation(0, 0, 0, 0, False)
        trainer = Trainer(model, config, ids, lambda gpt, context: none)
    at, losses, seconds = list(job["at"]), {}, 0.0
    for step in trainer.run():
        seconds += step.dt
        if at and step.epoch >= at[0]:
            scores = window_scores(trainer.model, windows, half, trainer.vocabulary)
            losses[f"{at.pop(0):g}"] = round(float(scores.nll.mean()), 4)
    scores = window_scores(trainer.model, windows, half, trainer.vocabulary)
    result = job | {"nll": losses, "end": round(float(scores.nll.mean()), 4), "steps": step.step}
    result["per_step"] = config.tokens_per_step
    result |= {"accuracy": round(float(scores.hit.mean()), 4), "seconds": round(seconds)}
    language_model = LanguageModel(trainer.model, trainer.vocabulary, config.context)
    if known:
        figures, _ = measure(
            language_model, Text(ids, *corpus.around()), VerifyConfig(), job["seed"]
        )
        rates = {f"em@{e['k']},{e['m']}": round(e["rate"], 4) for e in figures["extraction"]}
        result |= rates | {"whole": round(figures["nll"], 4), "certified": figures["certified"]}
        result["reasons"] = figures["reasons"]
    elif config.context >= 99:
        rate = extraction(language_model, ids, 50, 50, sample(len(ids) - 99, OFFSETS, 1))["rate"]
        result["em@50,50"] = round(rate, 4)
    return result


def run(job: dict) -> dict:
    """One run in a process of its own."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=False
    )
    if done.returncode:
        raise SystemExit(f"Error: {job['name']} did not end; see above")
    return json.loads(done.stdout)


def row(result: dict) -> str:
    """A result as a Markdown row."""
    losses = " · ".join(f"{epoch}: {nll:.2f}" for epoch, nll in result["nll"].items())
    certified = {True: "yes", False: "no"}.get(result.get("certified"), "")
    epochs = result["steps"] * result.get("per_step", 0) / result["tokens"]
    cells = [
        result["name"], result["settings"] or "none", result["model"], f"{result['tokens']:,}",
        result["seed"], losses, f"{result['end']:.3f}", f"{result['accuracy']:.4f}",
        result.get("em@50,50", ""), certified, f"{result['steps']:,}", f"{epochs:.1f}",
        result["seconds"],
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


HEADER = (
    "| name | settings | model | tokens | seed | nll by epoch | at the end | accuracy | em@50,50 "
    "| certified | steps | epochs | seconds |\n" + "|---" * 13 + "|"
)


@click.command()
@click.argument("runs", nargs=-1)
@click.option("--model", default="4x6x384", show_default=True, help="Layers x heads x width.")
@click.option("--tokens", default=16384, show_default=True)
@click.option("--first-line", default=1, show_default=True)
@click.option("--epochs", default=12.0, show_default=True)
@click.option("--at", default="4,8,12", show_default=True, help="Epochs after which to look.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Runs at one time.")
@click.option("--show", is_flag=True, help="Only print what was kept.")
@click.option("--job", hidden=True)
def main(
    runs: tuple[str, ...], model: str, tokens: int, first_line: int, epochs: float, at: str,
    seeds: str, jobs: int, show: bool, job: str | None,
) -> None:  # fmt: skip
    if job:
        click.echo(json.dumps(train(json.loads(job))))
        return
    click.echo(HEADER)
    if show:
        for line in KEPT.read_text(encoding="utf-8").splitlines():
            click.echo(row(json.loads(line)))
        return
    common = {"model": model, "tokens": tokens, "first_line": first_line, "epochs": epochs}
    common |= {"at": [float(epoch) for epoch in at.split(",")]}
    planned = [
        {"name": text.partition(":")[0], "settings": text.partition(":")[2], "seed": int(seed)}
        | common
        for text in runs
        for seed in seeds.split(",")
    ]
    with ThreadPoolExecutor(jobs) as pool, open(KEPT, "a", encoding="utf-8") as kept:
        for result in pool.map(run, planned):
            kept.write(json.dumps(result) + "\n")
            kept.flush()
            click.echo(row(result))


if __name__ == "__main__":
    main()
