"""A model, not a measurement, of a whole training on Apple chips: operations and published speeds.

    python benchmarks/mac.py [PRESET] [--batch-size 32] [--context 128] [--tokens 338025]

Float32 speed is arithmetic units × 2 × the GPU's clock, as commonly reported; bfloat16 products run
at about that speed on M3 and later, slower before. Of it a step gets the share that others' steps
got: 29 to 41 % in MLX, float32, on M1 Pro to M1 Ultra (mlx-examples, pull request 127), 36 % in
PyTorch on an M3 Max (the log of the project whose recipe is cosine-128). The number of steps is
that of `train`'s plan, with fewer blocks at first where the preset has them join.
"""

from dataclasses import replace

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
def main(name: str, batch_size: int, context: int, rows: int, tokens: int) -> None:
    config = recipe("recite", name, batch_size=batch_size, context=context)
    model, epochs = preset(name).model, cost.expected_epochs(tokens)
    shallow = replace(model, n_layer=config.first_blocks or model.n_layer)
    few, all_blocks = (
        cost.step(shape, config, 1.0, rows, on_cpu=False).flops for shape in (shallow, model)
    )
    steps = epochs * tokens / config.tokens_per_step
    share = cost.SHALLOW if config.first_blocks else 0.0
    whole = steps * (share * few + (1 - share) * all_blocks)
    table = []
    for chip, (cores, speed) in CHIPS.items():
        rate = speed * 1e12
        best, usual, worst = (whole / (rate * of_peak) / 60 for of_peak in (BEST, OF_PEAK, WORST))
        a_step = [f"{flops / (rate * OF_PEAK):.2f} s" for flops in (few, all_blocks)]
        row = [f"{chip}, {cores} GPU cores", *a_step, f"{usual:,.0f} min"]
        table.append([*row, f"{best:,.0f} to {worst:,.0f} min"])
    first = f"step of {shallow.n_layer} blocks"
    header = ["chip", first, f"of {model.n_layer}", f"{epochs:.0f} epochs", "range"]
    click.echo(markdown.table(header, table))
    click.echo(
        f"\n{name}, {batch_size} × {context}, {tokens:,} tokens: {steps:,.0f} steps, of which "
        f"{share:.0%} with {shallow.n_layer} blocks; {few / 1e12:.2f} and {all_blocks / 1e12:.2f} "
        f"TFLOP in products at {OF_PEAK:.0%} of peak. A model; nothing here was measured on a Mac."
    )


if __name__ == "__main__":
    main()
