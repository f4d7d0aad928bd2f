"""The page that follows a run, in a process of its own beside the training.

It reads files only and computes with what the training leaves of the processor, so it changes
nothing there. When the training's process ends, in whatever way, it stays as long as a browser
shows the page, and then ends itself.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import IO

SECONDS_WITHOUT_PAGE = 150  # a page in a hidden tab asks once a minute
SECONDS_TO_START, SECONDS_TO_END = 60, 2
STAYS = "stays"
NICENESS = 5

_CODE = (
    "import sys; from mlx_shakegpt.sharing import watch_beside; watch_beside.serve(*sys.argv[1:])"
)


@contextmanager
def page_beside(folder: Path, browser: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Serves a run's page while the block runs, and on while a browser shows it; `tell` hears
    where. With `browser`, it is opened there. Where it cannot be served, the block runs without."""
    try:
        process = _started(folder, browser)
    except OSError as error:
        tell(f"Warning: there is no page to watch: {error}.")
        yield
        return
    assert process.stdin is not None and process.stdout is not None
    address = _line(process.stdout, SECONDS_TO_START)
    if address.startswith("http"):
        tell(f"Watch it learn at {address}")
    else:
        tell(f"Warning: there is no page to watch: {address or 'its server did not start'}.")
    try:
        yield
    finally:
        process.stdin.close()  # as the end of this process would
        if _line(process.stdout, SECONDS_TO_END) == STAYS:
            tell(f"{address} stays while a browser shows it.")
            process.returncode = 0  # it is meant to outlive us, of which Popen would warn
        else:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
        process.stdout.close()


def _line(pipe: IO[str], seconds: float) -> str:
    """The next line, or what there is of it at the end; empty where none comes in time."""
    return pipe.readline().strip() if select.select([pipe], [], [], seconds)[0] else ""


def _started(folder: Path, browser: bool) -> subprocess.Popen[str]:
    # What this process can import, the other one can, wherever cli.py was called from.
    paths = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-P", "-X", "utf8", "-c", _CODE, str(folder.resolve())]
    return subprocess.Popen(
        [*command, "open" if browser else ""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        encoding="utf-8", errors="replace",
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C is for the training
    )  # fmt: skip


def serve(folder: str, browser: str = "", patience: float = SECONDS_WITHOUT_PAGE) -> None:
    """Serves the page of the run in `folder`, and writes its address, or what is wrong, to stdout;
    opens it in a browser if `browser` is not empty.

    When stdin has ended, which the training's process held, it goes on until no page has asked for
    `patience` seconds, and writes STAYS if that is not now.
    """
    from ..run.watched_run import WatchedRun
    from .watch_server import watch_server

    with suppress(OSError):
        os.nice(NICENESS)
    try:
        watched = WatchedRun(Path(folder))
        server = watch_server(watched)
    except (OSError, ValueError) as error:
        print(" ".join(str(error).split()), flush=True)
        return
    print(server.address, flush=True)
    if browser:
        Thread(target=webbrowser.open, args=[server.address], daemon=True).start()

    def shown() -> bool:
        return bool(server.last_request) and time.monotonic() - server.last_request < patience

    def until_the_training_ends() -> None:
        while sys.stdin.read(1):
            pass
        watched.ended = True
        with suppress(OSError):  # whoever heard may be gone
            print(STAYS if shown() else "", flush=True)

    Thread(target=until_the_training_ends, daemon=True).start()
    server.serve_while(lambda: not watched.ended or shown())
