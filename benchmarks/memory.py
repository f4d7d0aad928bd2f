"""The memory that training takes, measured beside the estimate that `train` and `info` go by.

    python benchmarks/memory.py

Each row is a process of its own that trains three steps on the whole of Tiny Shakespeare.
"""

import json
import subprocess
import sys

import click
import common

from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.sharing import markdown

SHAPES = (
    ("quick", 2, 128), ("quick", 32, 128), ("quick", 64, 128), ("gpt2-124m", 4, 64),
    ("gpt2-124m", 16, 64), ("gpt2-124m", 2, 512), ("gpt2-152m", 16, 64),
)  # fmt: skip


def measure(name: str, batch_size: int, context: int) -> None:
    """Prints what was estimated and what was used, as JSON."""
    from mlx_shakegpt import runtime
    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Trainer, cost
    from mlx_shakegpt.verification.loss import Evaluation

    device = runtime.setup().device
    ids = Corpus.load(None, Passage()).ids
    shape = {"batch_size": batch_size, "context": context, "short_context": 0}
    shape["first_blocks"] = 0  # all, as the estimate counts them
    config = recipe("recite", name, dtype=runtime.setup().dtype, steps=3, **shape)
    model = preset(name).model
    trainer = Trainer(model, config, ids, lambda *_: Evaluation(9.0, 0.0, 0.0, 1, True))
    for _ in trainer.run():
        pass
    rows = trainer.vocabulary.rows
    estimated = cost.training_memory(model, config, rows, device == "cpu")
    print(json.dumps({"estimated": estimated, "used": runtime.peak_bytes()}))


@click.command()
@click.argument("shape", nargs=-1)
def main(shape: tuple[str, ...]) -> None:
    if shape:
        measure(shape[0], int(shape[1]), int(shape[2]))
        return
    rows = []
    for name, batch_size, context in SHAPES:
        command = [sys.executable, __file__, name, str(batch_size), str(context)]
        environment = common.environment() | {"PYTHONPATH": str(common.ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, check=True)
        measured = json.loads(done.stdout)
        share = measured["estimated"] / measured["used"]
        cells = [f"{measured['used'] / 1e9:.2f} GB", f"{measured['estimated'] / 1e9:.2f} GB"]
        rows.append([name, f"{batch_size} × {context}", *cells, f"{share:.2f}"])
        click.echo(f"{name} {batch_size} × {context}: {share:.2f}", err=True)
    click.echo(markdown.table(["preset", "batch × context", "used", "estimated", "ratio"], rows))
    click.echo(f"\n{common.machine()}")


if __name__ == "__main__":
    main()
