"""What a long command needs: signals that let it save, a Mac that stays awake, how far it is."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..run.log_lines import duration
from ..sharing.stop_signals import heeded
from .common import note

SECONDS_BETWEEN_LINES = 30


class Parts:
    """Notes the parts of a measurement that are done, and, of one that takes long, how much of it
    is left."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._noted = clock()  # the part in hand, and its last line

    def __call__(self, part: str, share: float) -> None:
        """Takes the share of a part that is done; parts follow one another."""
        now = self._clock()
        if share >= 1:
            note(f"  {part}")
            self._began = self._noted = now
        elif now - self._noted >= SECONDS_BETWEEN_LINES:
            left = (now - self._began) * (1 - share) / share
            note(f"  {part}: {share:.0%}, about {duration(left)} left")
            self._noted = now


@contextmanager
def awake() -> Iterator[None]:
    """Keeps a Mac awake while nobody types. Its display may go dark, and closing the lid still
    sends it to sleep; the command goes on when it wakes."""
    if sys.platform != "darwin":
        yield
        return
    import subprocess

    with suppress(OSError):  # then it sleeps, and nothing is lost
        subprocess.Popen(
            ["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # beyond the reach of Ctrl-C, after which there is still saving
        )
    yield


@contextmanager
def interrupts(run: Any, tell: Any) -> Iterator[None]:
    """The first interrupt finishes the step and saves; a second one leaves at once.

    What this process was started to ignore, as by nohup, it ignores.
    """
    interrupted = False
    # Where writing fails once the terminal is gone: to itself, or to a program that ended with it.
    doomed = [stream for stream in (1, 2) if not stat.S_ISREG(os.fstat(stream).st_mode)]

    def handle(number: int, _frame: Any) -> None:
        nonlocal interrupted
        if interrupted and number == signal.SIGHUP:  # a shell and its terminal may both send one
            return
        if interrupted:
            os._exit(130)
        interrupted = True
        run.trainer.stop()
        if number == signal.SIGHUP:  # the terminal is gone, and writing to it would fail
            for stream in doomed:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        tell("Finishing the step or evaluation in hand and saving; once more to leave at once.")

    signals = heeded(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
