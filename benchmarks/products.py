"""Matrix products: ours and PyTorch's, of float32 and bfloat16 operands; of a matrix with itself;
and Muon's.

    python benchmarks/products.py [--repeats 15]

The best of some repeats, in GFLOP/s; orthogonalisations in seconds.
"""

import time
from collections.abc import Callable

import click
import common

from mlx_shakegpt import runtime
from mlx_shakegpt.sharing import markdown

# Tokens × width × what comes out: the MLP's products of gpt2-124m, q, k and v, the head.
SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (1024, 768, 2304), (1024, 768, 11_707))
MATRICES = ((320, 320), (320, 1280), (768, 768), (768, 3072))


def best(act: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one."""
    act()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return min(times)


def products(repeats: int) -> list[list[str]]:
    import mlx.core as mx
    import torch

    rows = []
    for m, k, n in SHAPES:
        flops = 2 * m * k * n / 1e9
        a, b = mx.random.normal((m, k)), mx.random.normal((k, n))
        mx.eval(a, b)
        cells = [f"{flops / best(lambda a=a, b=b: mx.eval(a @ b), repeats):.0f}"]
        if runtime.setup().can_round:
            with runtime.products_of("bfloat16"):
                cells.append(f"{flops / best(lambda a=a, b=b: mx.eval(a @ b), repeats):.0f}")
        else:
            cells.append("none")
        for dtype in (torch.float32, torch.bfloat16):
            x, y = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
            cells.append(f"{flops / best(lambda x=x, y=y: x @ y, repeats):.0f}")
        rows.append([f"{m:,} × {k:,} × {n:,}", *cells])
    return rows


def orthogonalisations(repeats: int) -> list[list[str]]:
    import mlx.core as mx
    import mlx.optimizers as optim

    from mlx_shakegpt.training.optimizer import orthogonalised

    muon, rows = optim.Muon(1e-3), []
    plain = mx.compile(lambda x: muon._zeropower_via_newtonschulz5(x, 5))
    ours = mx.compile(orthogonalised)
    for shape in MATRICES:
        x, other = mx.random.normal(shape), mx.random.normal(shape)
        mx.eval(x, other)
        full = best(lambda x=x, other=other: mx.eval(x @ other.T), repeats)
        own = best(lambda x=x: mx.eval(x @ x.T), repeats)
        theirs = best(lambda x=x: mx.eval(plain(x)), repeats)
        mine = best(lambda x=x: mx.eval(ours(x)), repeats)
        cells = [f"{own / full:.2f}", f"{theirs:.4f} s", f"{mine:.4f} s", f"{mine / theirs:.2f}"]
        rows.append([f"{shape[0]:,} × {shape[1]:,}", *cells])
    return rows


@click.command()
@click.option("--repeats", default=15, show_default=True)
def main(repeats: int) -> None:
    import torch

    blas = runtime.setup().blas
    if blas is None:
        raise click.ClickException("there is no OpenBLAS to compare; run this on Linux, on the CPU")
    torch.set_num_threads(blas.threads)
    header = ["product", "ours, float32", "bfloat16", "PyTorch, float32", "bfloat16"]
    click.echo(markdown.table(header, products(repeats)))
    header = ["matrix X", "XXᵀ beside XYᵀ", "Newton-Schulz by MLX's Muon", "by ours", "of it"]
    click.echo("\n" + markdown.table(header, orthogonalisations(repeats)))
    click.echo(f"\nGFLOP/s; best of {repeats}. {common.machine()}")


if __name__ == "__main__":
    main()
