"""`plot`: the loss curves of runs in one picture."""

from __future__ import annotations

from pathlib import Path

import click

from .common import emit, json_option


@click.command("plot")
@click.argument("runs", nargs=-1)
@click.option("--to", "target", default="loss.png", show_default=True, type=click.Path())
@json_option
def command(runs: tuple[str, ...], target: str, as_json: bool) -> None:
    """Draws the loss of RUNS, or of the one trained last, as PNG."""
    from .. import report
    from ..run import METRICS, find_run, read_config

    folders = [find_run(name) for name in runs] or [find_run(None)]
    targets = {read_config(folder)["train"].target_loss for folder in folders}
    curves = {folder.name: folder / METRICS for folder in folders}
    report.loss_curve(curves, Path(target), min(targets))
    emit(
        as_json, {"runs": list(curves), "picture": target}, f"Drew {', '.join(curves)} to {target}."
    )
