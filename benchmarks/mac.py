"""A model, not a measurement, of a training step on Apple's chips: operations and bytes.

    python benchmarks/mac.py [PRESET] [--batch-size 16] [--context 64]

Memory bandwidth is Apple's figure. Float32 speed is arithmetic units × 2 × the GPU's clock, as
commonly reported; bfloat16 products run at about that speed on these GPUs.
"""

import click

from mlx_shakegpt import estimate, report
from mlx_shakegpt.presets import preset

CHIPS = {  # GPU cores, TFLOP/s, GB/s
    "M1": (8, 2.6, 68),
    "M1 Max": (32, 10.4, 400),
    "M2 Max": (38, 13.6, 400),
    "M3 Max": (40, 14.2, 400),
    "M4 Pro": (20, 8.1, 273),
    "M4 Max": (40, 16.2, 546),
    "M3 Ultra": (80, 28.3, 819),
}
OF_PEAK = 0.6  # of a large product in MLX
# AdamW with masters: bf16 weight and gradient, fp32 master and two moments, read and written.
UPDATE_BYTES = 2 + 2 + 2 * (2 + 12)
# Passes over a value of width C in a block, forward and backward, that fused kernels leave.
PASSES = 60


@click.command()
@click.argument("name", default="gpt2-124m")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--context", default=64, show_default=True)
@click.option("--rows", default=11_707, show_default=True, help="Of the closed vocabulary.")
def main(name: str, batch_size: int, context: int, rows: int) -> None:
    model = preset(name).model
    tokens = batch_size * context
    flops = estimate.product_flops(model, tokens, context, rows)
    trained = model.n_parameters - (model.vocab_size - rows) * model.n_embd
    wide = tokens * model.n_layer * (model.n_embd + model.n_head * context / 12)
    moved = trained * UPDATE_BYTES + 2 * PASSES * wide + 6 * 4 * tokens * rows
    table = []
    for chip, (cores, speed, bandwidth) in CHIPS.items():
        products = flops / (speed * 1e12 * OF_PEAK)
        memory = moved / (bandwidth * 1e9)
        total = products + memory
        table.append(
            [
                f"{chip}, {cores} GPU cores",
                f"{products * 1e3:.0f} ms",
                f"{memory * 1e3:.0f} ms",
                f"{total * 1e3:.0f} ms",
                f"{tokens / total:,.0f}",
            ]
        )
    click.echo(report.table(["chip", "products", "memory", "step", "tokens/s"], table))
    click.echo(
        f"\n{name}, {batch_size} × {context}: {flops / 1e12:.2f} TFLOP in products at "
        f"{OF_PEAK:.0%} of peak, {moved / 1e9:.1f} GB moved. A model; nothing here was measured."
    )


if __name__ == "__main__":
    main()
