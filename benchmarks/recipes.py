"""Recipes beside each other: the same model and passage, to the same rule.

    python benchmarks/recipes.py [RECIPE ...] [--tokens 4096] [--most 300]

A recipe has arrived when the whole text's loss is below 0.1 nats a token and em@50,50 is 0.99 or
more at a sample of all offsets. Each is judged after every evaluation, up to `--most` passes over
the text. A recipe may have changes behind it: recite:beta2=0.99,lr=1e-3
"""

import click
import common

from mlx_shakegpt.settings.config import Passage, TrainConfig
from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.sharing import markdown

NLL, RATE, OFFSETS = 0.1, 0.99, 256
RECIPES = ("recite", "cosine-128", "constant-64")


def changed(text: str, preset_name: str, most: float) -> TrainConfig:
    """A recipe's settings, without an end of its own, from `name` or `name:field=value,…`."""
    name, _, rest = text.partition(":")
    changes = {"dtype": "float32", "stop": "text", "target_loss": 1e-9}
    if not recipe(name).steps:  # which would count before epochs
        changes["epochs"] = most
    return recipe(name, preset_name, **changes | common.settings(rest))


def run(text: str, preset_name: str, passage: Passage, most: float) -> list[str]:
    from mlx_shakegpt.model.language_model import LanguageModel
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer
    from mlx_shakegpt.verification.extraction import LENGTHS, extraction, sample
    from mlx_shakegpt.verification.loss import whole_text_nll

    config = changed(text, preset_name, most)
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

    step, measured, lucky = None, [0.0, 0.0], None
    for step in trainer.run():
        if lucky is None and step.loss < NLL:
            lucky = step.tokens
        over = step.step == trainer.state.total or step.epoch >= most
        if not step.evaluation:
            continue
        nll = step.evaluation.nll
        note = f"{text} step {step.step} epoch {step.tokens / len(ids):.1f} nll {nll:.4f}"
        if over or (step.evaluation.complete and nll < NLL):
            measured = rates()
            note += f" em@32,32 {measured[0]:.3f} em@50,50 {measured[1]:.3f}"
        click.echo(note, err=True)
        if over or (measured[1] >= RATE and nll < NLL):
            break
    arrived = "yes" if nll < NLL and measured[1] >= RATE else "no"
    cells = [text, f"{step.tokens:,}", f"{step.tokens / len(ids):.1f}", f"{step.step:,}"]
    cells.append(f"{lucky:,}" if lucky else "never")
    return [*cells, f"{nll:.4f}", f"{measured[0]:.3f}", f"{measured[1]:.3f}", arrived]


@click.command()
@click.argument("recipes", nargs=-1)
@click.option("--preset", "preset_name", default="quick", show_default=True)
@click.option("--tokens", default=4096, show_default=True)
@click.option("--first-line", default=1, show_default=True)
@click.option("--most", default=300.0, show_default=True, help="Passes over the text, at most.")
def main(
    recipes: tuple[str, ...], preset_name: str, tokens: int, first_line: int, most: float
) -> None:
    from mlx_shakegpt import runtime

    runtime.setup()
    passage = Passage(first_line, tokens)
    rows = [run(text, preset_name, passage, most) for text in recipes or RECIPES]
    header = [
        "recipe",
        "tokens",
        "epochs",
        "steps",
        "a batch below 0.1",
        "nll",
        "em@32,32",
        "em@50,50",
        "arrived",
    ]
    click.echo(markdown.table(header, rows))
    click.echo(f"\n{preset_name}, {tokens:,} tokens from line {first_line}. {common.machine()}")


if __name__ == "__main__":
    main()
