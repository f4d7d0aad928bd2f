"""A model, not a measurement, of a training step on Apple's chips: operations and published speeds.

    python benchmarks/mac.py [PRESET] [--batch-size 32] [--context 128] [--epochs 10]

Float32 speed is arithmetic units × 2 × the GPU's clock, as commonly reported; bfloat16 products run
at about that speed on M3 and later, slower before. Of it a step gets the share that others' steps
got: 29 to 41 % in MLX, float32, on M1 Pro to M1 Ultra (mlx-examples, pull request 127), 36 % in
PyTorch on an M3 Max (the log of the project whose recipe is cosine-128).
"""

import click

from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.sharing import markdown
from mlx_shakegpt.training import cost

CHIPS = {  # GPU cores, TFLOP/s
    "M1": (8, 2.6),
    "M1 Max": (32, 10.4),
    "M2 Max": (38, 13.6),
    "M3 Max": (40, 14.2),
    "M4 Pro": (20, 8.1),
    "M4 Max": (40, 16.2),
    "M3 Ultra": (80, 28.3),
}
OF_PEAK, BEST, WORST = 0.35, 0.41, 0.29


@click.command()
@click.argument("name", default="gpt2-124m")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--context", default=128, show_default=True)
@click.option("--rows", default=11_707, show_default=True, help="Of the closed vocabulary.")
@click.option("--tokens", default=338_025, show_default=True, help="Of the text.")
@click.option("--epochs", default=10.0, show_default=True)
def main(name: str, batch_size: int, context: int, rows: int, tokens: int, epochs: float) -> None:
    config = recipe("recite", name, batch_size=batch_size, context=context)
    one_step = cost.step(preset(name).model, config, 1.0, rows, on_cpu=False)
    steps = epochs * tokens / one_step.tokens
    table = []
    for chip, (cores, speed) in CHIPS.items():
        seconds = one_step.flops / (speed * 1e12 * OF_PEAK)
        cells = [
            f"{chip}, {cores} GPU cores",
            f"{seconds:.2f} s",
            f"{one_step.tokens / seconds:,.0f}",
        ]
        best, usual, worst = (steps * seconds * OF_PEAK / p / 60 for p in (BEST, OF_PEAK, WORST))
        table.append([*cells, f"{usual:,.0f} min", f"{best:,.0f} to {worst:,.0f} min"])
    header = ["chip", "step", "tokens/s", f"{epochs:g} epochs of {tokens:,} tokens", "range"]
    click.echo(markdown.table(header, table))
    click.echo(
        f"\n{name}, {batch_size} × {context}: {one_step.flops / 1e12:.2f} TFLOP in products at "
        f"{OF_PEAK:.0%} of peak. A model; nothing here was measured on a Mac."
    )


if __name__ == "__main__":
    main()
