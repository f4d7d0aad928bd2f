"""Recipes beside each other: the same model and passage, to the same rule.

    python benchmarks/recipes.py [RECIPE ...] [--tokens 4096] [--epochs 64]

A recipe is there when the whole text's loss is below 0.1 nats a token and em@50,50 is 0.99 or more
at a sample of all offsets. `recite` is judged when its rate has fallen, after `--epochs`; the
others, which never fall to an end, after each evaluation, up to `--most` passes over the text.
A recipe may have changes behind it: recite:beta2=0.99,lr=1e-3
"""

import statistics
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent))
import common

from mlx_shakegpt.settings.config import Passage, TrainConfig
from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.sharing import markdown

NLL, RATE, OFFSETS = 0.1, 0.99, 256
RECIPES = ("recite", "cosine-128", "constant-64")


def changed(text: str, preset_name: str, epochs: float, most: float) -> tuple[str, TrainConfig]:
    """A recipe's name and settings, from `name` or `name:field=value,…`."""
    name, _, rest = text.partition(":")
    changes = {"dtype": "float32"}
    changes |= {"epochs": epochs} if name == "recite" else {"stop": "text", "target_loss": 1e-9}
    if name == "constant-64":
        changes["epochs"] = most
    return name, recipe(name, preset_name, **changes | common.settings(rest))


def run(text: str, preset_name: str, passage: Passage, epochs: float, most: float) -> list[str]:
    from mlx_shakegpt.model.language_model import LanguageModel
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer
    from mlx_shakegpt.verification.extraction import LENGTHS, extraction, sample
    from mlx_shakegpt.verification.loss import whole_text_nll

    name, config = changed(text, preset_name, epochs, most)
    ids = Corpus.load(None, passage).ids
    trainer = Trainer(
        preset(preset_name).model,
        config,
        ids,
        lambda model, context: whole_text_nll(model, ids, context, trainer.vocabulary, NLL),
    )

    def rates() -> list[float]:
        language_model = LanguageModel(
            trainer.model, trainer.vocabulary, trainer.context(trainer.state.step - 1)
        )
        chosen = [sample(len(ids) - k - m + 1, OFFSETS, 1) for k, m in LENGTHS]
        pairs = zip(LENGTHS, chosen, strict=True)
        return [extraction(language_model, ids, k, m, c)["rate"] for (k, m), c in pairs]

    times, step, measured, lucky = [], None, [0.0, 0.0], None
    for step in trainer.run():
        times.append(step.dt)
        if lucky is None and step.loss < NLL:
            lucky = step.tokens
        over = step.step == trainer.state.total or (name != "recite" and step.epoch >= most)
        if not step.evaluation:
            continue
        nll = step.evaluation.nll
        note = f"{text} step {step.step} epoch {step.epoch:.1f} nll {nll:.4f}"
        if over or (name != "recite" and step.evaluation.complete and nll < NLL):
            measured = rates()
            note += f" em@32,32 {measured[0]:.3f} em@50,50 {measured[1]:.3f}"
        click.echo(note, err=True)
        if over or (measured[1] >= RATE and nll < NLL):
            break
    seconds = (
        statistics.median(times) * step.step
    )  # what a busy hour adds to single steps is not ours
    there = "yes" if nll < NLL and measured[1] >= RATE else "no"
    cells = [text, f"{step.tokens:,}", f"{step.epoch:.1f}", f"{step.step:,}", f"{seconds:.0f}"]
    cells.append(f"{lucky:,}" if lucky else "never")
    return [*cells, f"{nll:.4f}", f"{measured[0]:.3f}", f"{measured[1]:.3f}", there]


@click.command()
@click.argument("recipes", nargs=-1)
@click.option("--preset", "preset_name", default="quick", show_default=True)
@click.option("--tokens", default=4096, show_default=True)
@click.option("--first-line", default=1, show_default=True)
@click.option("--epochs", default=64.0, show_default=True, help="Passes of recite.")
@click.option("--most", default=300.0, show_default=True, help="Passes of the others, at most.")
def main(
    recipes: tuple[str, ...], preset_name: str, tokens: int, first_line: int,
    epochs: float, most: float,
) -> None:  # fmt: skip
    from mlx_shakegpt import runtime

    runtime.setup()
    passage = Passage(first_line, tokens)
    rows = [run(text, preset_name, passage, epochs, most) for text in recipes or RECIPES]
    header = [
        "recipe",
        "tokens",
        "epochs",
        "steps",
        "seconds",
        "a batch below 0.1",
        "nll",
        "em@32,32",
        "em@50,50",
    ]
    click.echo(markdown.table([*header, "there"], rows))
    click.echo(f"\n{preset_name}, {tokens:,} tokens from line {first_line}. {common.machine()}")


if __name__ == "__main__":
    main()
