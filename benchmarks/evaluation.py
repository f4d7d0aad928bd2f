"""Whole-text evaluation beside a training epoch of the same text, 124M, in turns.

python benchmarks/evaluation.py [--optimizer adamw] [--tokens 2048] [--rounds 2]
"""

import statistics
import time

import click
import common

from mlx_shakegpt.sharing import markdown


def measure(batch_size: int, context: int, optimizer: str, tokens: int, rounds: int) -> list[str]:
    from mlx_shakegpt import runtime

    runtime.setup()
    import mlx.core as mx

    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.settings.presets import preset, recipe
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer
    from mlx_shakegpt.training.windows import Windows
    from mlx_shakegpt.verification.loss import whole_text_nll

    text = Corpus.load(None, Passage()).ids
    shape = {"batch_size": batch_size, "context": context, "short_context": 0}
    shape["optimizer"] = optimizer
    config = recipe("recite", "gpt2-124m", dtype="float32", **shape)
    trainer = Trainer(preset("gpt2-124m").model, config, text, lambda *_: None)
    step = trainer.compiled_step(len(trainer.model.h))
    passage = text[: tokens + 1]
    rows = trainer.vocabulary.rows_of(passage)
    windows = Windows(rows, batch_size, context, config.seed, False)
    training, evaluating = [], []
    mx.eval(*step(windows.batch(0), config.lr))
    whole_text_nll(trainer.model, text[: 3 * context + 1], context, trainer.vocabulary)
    for _ in range(rounds):
        start = time.perf_counter()
        for number in range(windows.steps(1)):
            mx.eval(*step(windows.batch(number), config.lr))
        training.append(time.perf_counter() - start)
        start = time.perf_counter()
        whole_text_nll(trainer.model, passage, context, trainer.vocabulary)
        evaluating.append(time.perf_counter() - start)
    ratios = [e / t for e, t in zip(evaluating, training, strict=True)]
    return [
        f"{batch_size} × {context}",
        f"{tokens:,}",
        f"{statistics.median(training):.1f} s",
        f"{statistics.median(evaluating):.1f} s",
        f"{statistics.median(ratios):.2f}",
    ]


@click.command()
@click.option("--tokens", default=2048, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--optimizer", type=common.OPTIMIZERS, default="muon", show_default=True)
def main(tokens: int, rounds: int, optimizer: str) -> None:
    rows = [measure(B, T, optimizer, tokens, rounds) for B, T in ((16, 64), (4, 256))]
    header = ["batch × context", "tokens", "training epoch", "evaluation", "of an epoch"]
    click.echo(markdown.table(header, rows))
    click.echo(f"\n{optimizer}; medians of {rounds} rounds, float32. {common.machine()}")


if __name__ == "__main__":
    main()
