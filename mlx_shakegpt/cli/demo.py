"""`demo`: a page in the browser on which a model speaks."""

from __future__ import annotations

import click

from .common import FilePath, note, prepare, say, text_options, trained_model_from


@click.command("demo")
@click.option("--run", help="Run to show. Default: the one trained last.")
@click.option("--model", type=FilePath(), help="Folder or hub id to show instead of a run.")
@text_options
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen on; 0.0.0.0 lets other machines in.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT",
    help="Default: a free one from 7860 on.",
)  # fmt: skip
def command(
    run: str | None, model: str | None, data: str | None, first_line: int | None,
    corpus_tokens: int | None, host: str, port: int | None,
) -> None:  # fmt: skip
    """Serves a local page: prompt, streamed text, known passages marked, and the evidence."""
    prepare()
    from ..sharing.server import serve_until_stopped

    trained = trained_model_from(run, model, data, first_line, corpus_tokens)

    def tell(line: str) -> None:
        say(line)
        note("Ctrl-C ends it.")

    serve_until_stopped(trained, host, port, tell)
