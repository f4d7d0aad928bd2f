"""A plan, not a measurement: training on 2 to 16 machines, by what has to be sent for each step.

    python benchmarks/machines.py [--seconds 0.298] [--tokens 2048] [--update 0]

The default step is the one measured by the 124M project: PyTorch on an M3 Max, 16 x 128 tokens. A
ring sends each gradient 2 (N - 1) / N times, in 2 (N - 1) hops for each piece of 32 MiB (Patarasu
and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002); no computation is counted as going on meanwhile.
Every machine updates the whole model: `--update` is that share of a step, hardly any for AdamW.
"""

import math

import click

from mlx_shakegpt.settings.presets import preset
from mlx_shakegpt.sharing import markdown

PIECE = 32 * 1024**2  # bytes, of mlx.nn.average_gradients
LINKS = {  # bytes/s, seconds a hop
    # 3.5 GB/s between two M3 Ultras with JACCL: github.com/ml-explore/mlx/issues/3207
    "Thunderbolt 5, RDMA": (3.5e9, 5e-5),
    # Its rate less 12 % for frames and TCP.
    "10 GbE": (1.1e9, 2e-4),
}
LEVERS = {  # bytes a gradient, batches computed for each exchange
    "fp32": (4, 1),
    "bf16": (2, 1),
    "bf16, 4 accumulated": (2, 4),
    "bf16, 16 accumulated": (2, 16),
}
DEALT = {name: LEVERS[name] for name in ("fp32", "bf16")}  # nothing is left to accumulate


def exchange(parameters: int, width: int, machines: int, link: str) -> float:
    """Seconds of one exchange."""
    rate, hop = LINKS[link]
    size = parameters * width
    hops = 2 * (machines - 1) * math.ceil(size / PIECE)
    return 2 * (machines - 1) / machines * size / rate + hops * hop


@click.command()
@click.option("--seconds", default=0.298, show_default=True, help="A step of one machine.")
@click.option("--tokens", default=2048, show_default=True, help="Of that step.")
@click.option("--rows", default=11_707, show_default=True, help="Of the closed vocabulary.")
@click.option("--update", default=0.0, show_default=True, help="Its optimiser's share.")
def main(seconds: float, tokens: int, rows: int, update: float) -> None:
    model = preset("gpt2-124m").model
    frozen = model.n_positions * model.n_embd  # the position table, by `recite`
    parameters = model.n_parameters - (model.vocab_size - rows) * model.n_embd - frozen
    click.echo(
        f"gpt2-124m with {rows:,} rows: {parameters / 1e6:.1f} M gradients; a step of {tokens:,} "
        f"tokens in {seconds * 1e3:.0f} ms on one machine. Times as many tokens a second as it:\n"
    )
    for link in LINKS:
        table = []
        for machines in (2, 4, 8, 16):
            own = seconds * ((1 - update) / machines + update)
            dealt = [  # one machine's batch among all
                seconds / (own + exchange(parameters, width, machines, link))
                for width, _ in DEALT.values()
            ]
            each = [  # as large a batch on every machine
                machines / (1 + exchange(parameters, width, machines, link) / (count * seconds))
                for width, count in LEVERS.values()
            ]
            table.append([str(machines), *(f"{gain:.1f}" for gain in dealt + each)])
        head = [f"one batch split, {name}" for name in DEALT]
        head += [f"a batch each, {name}" for name in LEVERS]
        click.echo(markdown.table([f"machines, {link}", *head], table) + "\n")
    click.echo("A plan by these figures; nothing here was measured with this program.")


if __name__ == "__main__":
    main()
