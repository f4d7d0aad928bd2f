"""Ends a rank that waits for others in vain, and keeps MLX's own lines about their loss from view.

MLX's collectives have no time-out, and to join a group holds Python's lock, so that no thread of
the waiting process could end it. A process of its own can: this file, run as a script.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

_VERBOSE = "MLX_RING_VERBOSE" in os.environ  # mlx.launch --verbose
_NOISE = b"[ring]"  # begins a dozen lines, in pieces, for each neighbour that is gone


class Watchdog:
    """Kills this process once `seconds`, or what the last `tick` gave, pass without another, and
    says where it waited.

    What MLX itself writes to stderr passes through it, up to its first line on a lost neighbour;
    Python's goes there straight.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        read, write = os.pipe()
        command = [sys.executable, "-I", __file__, str(os.getpid()), str(seconds), str(read)]
        # A session of its own: Ctrl-C is for the rank.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=(read,), start_new_session=True
        )
        sys.stderr.flush()
        sys.stderr = os.fdopen(os.dup(2), "w", 1, encoding="utf-8", errors="backslashreplace")
        os.dup2(write, 2)
        os.close(read)
        os.close(write)

    def tick(self, where: str, seconds: float | None = None) -> None:
        """Gives another span of time to what happens next."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(f"{seconds or self._seconds:g} {where}\n".encode())
            self._process.stdin.flush()

    def close(self) -> None:
        """Watches no longer; MLX's last lines go nowhere."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


def watch(process: int, seconds: float, stderr: int) -> None:
    """Reads ticks from stdin until it is closed, or ends the process for want of them; hands on
    what comes from `stderr`."""
    where, sources, quiet = b"at its start", [0, stderr], False
    deadline = time.monotonic() + seconds
    while ready := select.select(sources, [], [], max(0.0, deadline - time.monotonic()))[0]:
        if stderr in ready:
            chunk = os.read(stderr, 65536)
            if not chunk:
                sources.remove(stderr)
            heard, noise, _ = (chunk, b"", b"") if _VERBOSE else chunk.partition(_NOISE)
            _tell(b"" if quiet else heard)
            quiet = quiet or bool(noise)
        elif not (ticks := os.read(0, 65536)):
            return  # and nothing more was said
        else:
            span, _, where = ticks.splitlines()[-1].partition(b" ")
            seconds = float(span)
            deadline = time.monotonic() + seconds
    message = (
        f"Error: {where.decode()}: no answer from the other ranks for {seconds:g} s; see that all "
        "run and reach each other, then start all again and resume\n"
    )
    _tell(message.encode())
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _tell(text: bytes) -> None:
    """Writes to stderr, which a launcher that is gone may have taken with it."""
    with contextlib.suppress(OSError):
        os.write(2, text)


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
