"""`bench`: how fast this machine trains and speaks."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..settings.config import TrainConfig
from ..settings.presets import (
    AUTO,
    DEFAULT_RECIPE,
    PRESETS,
    default_preset,
    dtype_of,
    preset,
    recipe,
)
from .common import FilePath, emit, json_option, note, options, prepare, refuse_others
from .long import awake


@click.command("bench")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help=f"Preset to measure; may be given several times: {AUTO}, {', '.join(PRESETS)}.  "
    f"[default: {AUTO}]",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    metavar="N",
    default=5,
    show_default=True,
    help="Timed steps.",
)
@options(TrainConfig, "batch_size", "context", "dtype", unset=True)
@click.option(
    "--share", type=FilePath(path_type=Path), metavar="FILE",
    help="Measure what others can use, in some five minutes, and write it as JSON to a new FILE.",
)  # fmt: skip
@json_option
def command(
    presets: tuple[str, ...], repeats: int, share: Path | None, as_json: bool, **settings: Any
) -> None:
    """Times the training step, greedy generation and a matrix product."""
    changes = {k: v for k, v in settings.items() if v is not None}
    if share:
        refuse_others(
            ("share", "as_json"), "--share has presets and shapes of its own; leave {option} out"
        )
        return _share(share, as_json)
    runtime = prepare()
    from ..sharing import markdown
    from ..training import timing

    if "context" in changes:
        changes["short_context"] = 0
    results = []
    for chosen in presets or (AUTO,):
        name = default_preset(runtime.device) if chosen == AUTO else chosen
        settings = {"dtype": dtype_of(name, runtime.dtype)} | changes
        config = recipe(DEFAULT_RECIPE, name, **settings)
        figures = asdict(timing.bench(preset(name), config, repeats))
        results.append({"preset": name, "dtype": config.dtype, **figures})
    rows = [
        [
            r["preset"],
            r["dtype"],
            f"{r['train']['batch_size']} × {r['train']['context']}",
            f"{r['train']['seconds']:.3f} s",
            f"{r['train']['tokens_per_second']:.0f}",
            f"{r['train']['share_of_peak']:.0%} of {r['matmul_gflops']:.0f}",
            f"{r['peak_bytes'] / 1e9:.2f} GB",
            f"{r['generate']['tokens_per_second']:.0f}",
            f"{r['generate']['known_tokens_per_second']:.0f}",
            f"{r['generate']['accepted']:.0%}",
        ]
        for r in results
    ]
    header = ["preset", "dtype", "batch", "step", "tokens/s", "of peak GFLOP/s", "peak memory"]
    header += ["spoken tokens/s", "text known by heart", "guesses accepted"]
    average = "Mean" if runtime.device == "gpu" else "Median"
    text = markdown.table(header, rows) + (
        f"\n\n{average} of {repeats} steps; the peak is that of large products on {runtime.name}."
    )
    emit(as_json, results[0] if len(results) == 1 else {"presets": results}, text)


def _share(path: Path, as_json: bool) -> None:
    """Measures this machine into a new file."""
    from ..files import must_not_exist, write_atomically

    must_not_exist(path)
    runtime = prepare()
    from ..text import assets
    from ..training.survey import SECONDS, survey
    from .shared_figures import tables

    def keep(report: dict[str, Any]) -> None:
        write_atomically(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")

    assets.ensure(assets.TINY_SHAKESPEARE)
    note("Measuring; about five minutes. Close other programs, and plug in the charger.")
    with awake():
        report = survey(runtime, note, keep, SECONDS)
    emit(as_json, report, tables(report))
    note(f"Written to {path}: attach it to an issue. It has no names and no paths of yours.")
