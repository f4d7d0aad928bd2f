"""`plot`: the loss curves of runs in one picture, or a run as a film."""

from __future__ import annotations

from pathlib import Path

import click

from .common import FilePath, emit, json_option, refuse_others


@click.command("plot")
@click.argument("runs", nargs=-1)
@click.option(
    "--to", "target", default="loss.png", show_default=True, type=FilePath(),
    help="Picture to write, a .png, .svg or .pdf.",
)  # fmt: skip
@click.option(
    "--across", type=click.Choice(["tokens", "time"]), default="tokens", show_default=True,
    help="What the x axis shows.",
)  # fmt: skip
@click.option("--dark", is_flag=True, help="Light lines on dark.")
@click.option(
    "--film", type=FilePath(), metavar="FILE",
    help="Draw one run's memory map as it filled instead, as an animated .gif or .png.",
)  # fmt: skip
@json_option
def command(
    runs: tuple[str, ...], target: str, across: str, dark: bool, film: str | None, as_json: bool
) -> None:
    """Draws loss, rate and norm of RUNS, or of the one trained last, as a picture."""
    from ..run import METRICS, find_run, read_config
    from ..run.curves import loss_curve

    if film:
        _film(runs, Path(film), as_json)
        return
    folders = [find_run(name) for name in runs] or [find_run(None)]
    targets = {read_config(folder).train.target_loss for folder in folders}
    curves = {folder.name: folder / METRICS for folder in folders}
    loss_curve(curves, Path(target), min(targets), across, dark)
    emit(
        as_json, {"runs": list(curves), "picture": target}, f"Drew {', '.join(curves)} to {target}."
    )


def _film(runs: tuple[str, ...], picture: Path, as_json: bool) -> None:
    """Draws one run's film."""
    refuse_others(("runs", "film", "as_json"), "a film has no {option}; leave it out")
    if len(runs) > 1:
        raise click.UsageError("a film shows one run; name one")
    from ..run import find_run, load_corpus
    from ..run.film import film
    from ..run.token_loss_file import TOKEN_LOSSES, read_token_losses

    folder = find_run(runs[0] if runs else None)
    if not (folder / TOKEN_LOSSES).exists():
        raise ValueError(f"run {folder.name!r} has no {TOKEN_LOSSES}, which training writes")
    corpus, moments = load_corpus(folder), read_token_losses(folder / TOKEN_LOSSES)
    film(picture, corpus.ids, moments, corpus.passage.first_line, folder.name)
    emit(
        as_json,
        {"run": folder.name, "picture": str(picture), "moments": len(moments)},
        f"Drew {folder.name}, {len(moments)} moments of {moments[-1].step:,} steps, to {picture}.",
    )
