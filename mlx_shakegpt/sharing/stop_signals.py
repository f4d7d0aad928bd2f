"""Signals that end a command. What a process was started to ignore, as by nohup, it ignores."""

from __future__ import annotations

import signal


def heeded(*signals: signal.Signals) -> list[signal.Signals]:
    """Those of some signals that this process was not started to ignore."""
    return [number for number in signals if signal.getsignal(number) is not signal.SIG_IGN]


def interrupt_on_stop_signals() -> None:
    """Has SIGTERM and SIGHUP raise KeyboardInterrupt from now on, as Ctrl-C does."""
    for number in heeded(signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
