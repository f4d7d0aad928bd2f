"""`bench`: how fast this machine trains and speaks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ..settings.config import TrainConfig
from ..settings.presets import preset, recipe
from .common import emit, json_option, options, prepare


@click.command("bench")
@click.option(
    "--preset", "presets", multiple=True, help="Preset to measure, repeatable; else auto."
)
@click.option(
    "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed steps."
)
@options(TrainConfig, "batch_size", "context", "dtype", unset=True)
@json_option
def command(presets: tuple[str, ...], repeats: int, as_json: bool, **settings: Any) -> None:
    """Times the training step, greedy generation and a matrix product."""
    runtime = prepare()
    from ..sharing import markdown
    from ..training import timing

    changes = {"dtype": runtime.dtype} | {k: v for k, v in settings.items() if v is not None}
    if "context" in changes:
        changes["short_context"] = 0
    results = []
    for name in presets or ("gpt2-124m" if runtime.device == "gpu" else "quick",):
        config = recipe("recite", name, **changes)
        results.append({"preset": name, **asdict(timing.bench(preset(name), config, repeats))})
    rows = [
        [
            r["preset"],
            f"{r['train']['batch_size']} × {r['train']['context']}",
            f"{r['train']['seconds']:.3f} s",
            f"{r['train']['tokens_per_second']:.0f}",
            f"{r['train']['share_of_peak']:.0%}",
            f"{r['peak_bytes'] / 1e9:.2f} GB",
            f"{r['generate']['tokens_per_second']:.0f}",
            f"{r['generate']['known_tokens_per_second']:.0f}",
            f"{r['generate']['accepted']:.0%}",
        ]
        for r in results
    ]
    header = ["preset", "batch", "step", "tokens/s", "of peak", "peak memory"]
    header += ["spoken tokens/s", "text known by heart", "guesses accepted"]
    text = markdown.table(header, rows) + (
        f"\n\nMedian of {repeats} steps; peak: {results[0]['matmul_gflops']:.0f} GFLOP/s "
        f"in {changes['dtype']} products on {runtime.name}."
    )
    emit(as_json, results[0] if len(results) == 1 else {"presets": results}, text)
