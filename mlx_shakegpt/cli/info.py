"""`info`: what this machine is to MLX, and what each preset will take on it."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..settings.presets import DEFAULT_RECIPE, PRESETS, dtype_of, fit_to_text, recipe
from .common import emit, json_option, prepare


@click.command("info")
@json_option
def command(as_json: bool) -> None:
    """Shows device, dtype, BLAS and its speed, memory, and the presets' needs."""
    from importlib.metadata import version

    from .. import runtime
    from ..sharing import markdown
    from ..text.corpus import Corpus
    from ..text.vocabulary import Vocabulary
    from ..training import cost

    machine = prepare()
    import mlx.core as mx

    # Muon's products are float32, and so are those of small models on a GPU.
    speeds = {
        dtype: runtime.matmul_gflops(dtype=getattr(mx, dtype))
        for dtype in {machine.dtype, "float32"}
    }
    gflops, on_cpu = speeds[machine.dtype], machine.device == "cpu"
    presets = {}
    for name, chosen in PRESETS.items():
        ids = Corpus.load(None, chosen.passage).ids
        dtype = dtype_of(name, machine.dtype)
        config = fit_to_text(recipe(DEFAULT_RECIPE, name, dtype=dtype), len(ids), {})
        own = Vocabulary.of(ids)
        own_speed, update_speed = speeds[dtype], speeds["float32"]
        one_step = cost.step(chosen.model, config, own_speed, own.rows, on_cpu, update_speed)
        presets[name] = asdict(one_step)
    blas: dict[str, object] = {"name": "MLX's own", "path": ""}
    threads = ""
    if machine.blas:
        blas = {"name": machine.blas.name, "path": machine.blas.path}
        blas |= {"threads": machine.blas.threads, "shared": machine.blas.engine is not None}
        sharing = "whichever is free takes the next block" if blas["shared"] else "the BLAS's own"
        threads = f"threads  {blas['threads']}, {sharing}\n"
    result = {
        "device": machine.device,
        "name": machine.name,
        "dtype": machine.dtype,
        "blas": {**blas, "gflops": round(gflops, 1)},
        "memory_bytes": runtime.total_memory(),
        "free_bytes": runtime.free_bytes(),
        "mlx": version("mlx"),
        "presets": presets,
    }
    rows = [
        [
            name,
            f"{p['parameters']:,}",
            f"{p['tokens']:,}",
            f"{p['memory_bytes'] / 1e9:.1f} GB",
            f"{p['seconds']:.2g} s",
        ]
        for name, p in presets.items()
    ]
    text = (
        f"device   {machine.device}, {machine.name}\n"
        f"memory   {runtime.total_memory() / 1e9:.1f} GB, {runtime.free_bytes() / 1e9:.1f} free\n"
        f"dtype    {machine.dtype}\n"
        f"mlx      {version('mlx')}\n"
        f"products {blas['name']} {blas['path']}, {gflops:.0f} GFLOP/s in {machine.dtype}\n"
        f"{threads}\n"
        + markdown.table(
            ["preset", "parameters", "tokens/step", "memory, estimated", "step, at least"], rows
        )
    )
    emit(as_json, result, text)
