"""`watch`: a page in the browser that follows a run."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click

from .common import FilePath, fetch_vocabulary, note, say


@click.command("watch")
@click.argument("run", required=False)
@click.option("--data", type=FilePath(), help="The run's text, if it lies elsewhere now.")
@click.option(
    "--host", default="127.0.0.1", show_default=True,
    help="Address to listen on; 0.0.0.0 lets other machines in.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(1, 65535), metavar="PORT",
    help="Default: a free one from 7870 on.",
)  # fmt: skip
@click.option(
    "--open/--no-open", "browser", default=None,
    help="Open the page in a browser.  [default: where there is a screen]",
)  # fmt: skip
def command(
    run: str | None, data: str | None, host: str, port: int | None, browser: bool | None
) -> None:
    """Serves a local page that follows RUN, or the one trained last: curves, map, samples, plan.

    RUN is a run's name, or the path of its folder, which may be another machine's. The page only
    reads it, while it trains and after.
    """
    import webbrowser

    from ..run.names import find_run
    from ..run.watched_run import WatchedRun
    from ..sharing.watch_server import serve_until_interrupted, watch_server

    path = Path(run).expanduser() if run and os.sep in run else find_run(run)
    watched = WatchedRun(path, Path(data) if data else None)
    try:
        fetch_vocabulary()
    except ValueError as error:  # the page then shows all but the text
        note(f"Warning: {error}")
    else:
        watched.check_text()
    server = watch_server(watched, host, port)
    say(f"{path.resolve().name} is shown at {server.address}")
    note("Ctrl-C ends it.")
    if has_screen() if browser is None else browser:
        webbrowser.open(server.address)
    serve_until_interrupted(server)


def has_screen() -> bool:
    """Whether somebody sits at this machine's own screen, so that a browser may open there."""
    if "SSH_CONNECTION" in os.environ or not sys.stderr.isatty():
        return False
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def page_if(watch: bool, folder: Path, tell: Any) -> AbstractContextManager[None]:
    """The page beside a training, where one is to be."""
    if not watch:
        return nullcontext()
    from ..sharing.watch_beside import page_beside

    return page_beside(folder, has_screen(), tell)
