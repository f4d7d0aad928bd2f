"""How a step's time grows with tokens a step, context, layers and text: one table, one plot.

    python benchmarks/scaling.py [--optimizer adamw] [--repeats 3] [--plot scaling.png]

Width 768, 12 heads; unless varied, 4 layers, 8 × 64 tokens and the whole of Tiny Shakespeare.
"""

import math
import time

import click
import common

from mlx_shakegpt.sharing import markdown

BASE = {"batch_size": 8, "context": 64, "layers": 4, "corpus": 338_025}
SERIES = {
    "tokens a step (context 64)": [{"batch_size": b} for b in (1, 2, 4, 8, 16, 32)],
    "context (512 tokens a step)": [
        {"batch_size": 512 // t, "context": t} for t in (16, 64, 256, 512)
    ],
    "layers": [{"layers": n} for n in (1, 2, 4, 8)],
    "tokens of text (rows of the head)": [{"corpus": n} for n in (2_000, 32_000, 338_025)],
}
SECONDS = (0.25, 0.5, 1, 2, 4, 8)
VARIED = ("tokens", "context", "layers", "corpus")


def seconds(
    batch_size: int, context: int, layers: int, corpus: int, optimizer: str, repeats: int
) -> float:
    """The best of some steps' times."""
    import mlx.core as mx

    from mlx_shakegpt.settings.config import ModelConfig, Passage
    from mlx_shakegpt.settings.presets import recipe
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer

    ids = Corpus.load(None, Passage()).ids[:corpus]
    changes = {"batch_size": batch_size, "context": context, "short_context": 0}
    changes["optimizer"] = optimizer
    config = recipe("recite", "gpt2-124m", dtype="float32", **changes)
    shape = ModelConfig(n_layer=layers, n_head=12, n_embd=768)
    trainer = Trainer(shape, config, ids, lambda *_: None)
    step = trainer.compiled_step(len(trainer.model.h))
    best = math.inf
    for number in range(repeats + 1):
        start = time.perf_counter()
        mx.eval(*step(trainer.batch(number), config.lr))
        if number:
            best = min(best, time.perf_counter() - start)
    return best


def slope(x: list[float], y: list[float]) -> float:
    """The exponent between the last two points: where the largest term shows."""
    return math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])


@click.command()
@click.option("--repeats", default=3, show_default=True)
@click.option("--optimizer", type=common.OPTIMIZERS, default="muon", show_default=True)
@click.option("--plot", type=click.Path(), help="Where to draw it; else it is not drawn.")
def main(repeats: int, optimizer: str, plot: str | None) -> None:
    from mlx_shakegpt import runtime

    runtime.setup()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(SERIES), figsize=(14, 3.6), sharey=True, layout="constrained"
    )
    rows = []
    for axis, varied, (name, points) in zip(axes, VARIED, SERIES.items(), strict=True):
        x, y = [], []
        for point in points:
            settings = BASE | point
            x.append(
                settings["batch_size"] * settings["context"]
                if varied == "tokens"
                else settings[varied]
            )
            y.append(seconds(**settings, optimizer=optimizer, repeats=repeats))
        first, last = slope(x[:2], y[:2]), slope(x, y)
        cells = " · ".join(f"{a:,}: {b:.2f}" for a, b in zip(x, y, strict=True))
        rows.append([name, cells, f"{first:.2f}", f"{last:.2f}"])
        axis.loglog(x, y, "o-", color="#1f77b4")
        axis.set_xticks(x, [f"{a:,}" for a in x], rotation=45)
        axis.set_yticks(SECONDS, [f"{a:g}" for a in SECONDS])
        axis.minorticks_off()
        axis.set_ylim(0.2, 8)
        axis.set_xlabel(name)
        axis.grid(True, alpha=0.3)
    axes[0].set_ylabel("seconds a step")
    if plot:
        figure.savefig(plot, dpi=110)
    header = ["varied", "value: seconds a step", "exponent, first two", "last two"]
    click.echo(markdown.table(header, rows))
    click.echo(f"\n{optimizer}; best of {repeats} steps. {common.machine()}")


if __name__ == "__main__":
    main()
