"""`plot`: the loss curves of runs in one picture."""

from __future__ import annotations

from pathlib import Path

import click

from .common import emit, json_option


@click.command("plot")
@click.argument("runs", nargs=-1)
@click.option("--to", "target", default="loss.png", show_default=True, type=click.Path())
@click.option(
    "--across", type=click.Choice(["tokens", "time"]), default="tokens", show_default=True,
    help="What the picture's width is.",
)  # fmt: skip
@click.option("--dark", is_flag=True, help="Light lines on dark.")
@json_option
def command(runs: tuple[str, ...], target: str, across: str, dark: bool, as_json: bool) -> None:
    """Draws loss, rate and norm of RUNS, or of the one trained last, as PNG."""
    from ..run import METRICS, find_run, read_config
    from ..run.curves import loss_curve

    folders = [find_run(name) for name in runs] or [find_run(None)]
    targets = {read_config(folder).train.target_loss for folder in folders}
    curves = {folder.name: folder / METRICS for folder in folders}
    loss_curve(curves, Path(target), min(targets), across, dark)
    emit(
        as_json, {"runs": list(curves), "picture": target}, f"Drew {', '.join(curves)} to {target}."
    )
