"""Lines at the foot of a terminal that are drawn anew in place, below all that is said meanwhile.

The terminal may change its size at any time: lines that it has wrapped since are counted as it
shows them. The cursor waits on the line below, and so does a shell's prompt if all ends at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

SECONDS = 0.5  # between two pictures
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # synchronised output, where a terminal knows it
_CLEAR_LINE, _CLEAR_BELOW = "\x1b[K", "\x1b[J"

Frame = Callable[[int, int], Sequence[Text]]


class Live:
    """While the block runs, shows what `frame(width, height)` gives, in a thread of its own; what
    goes to stderr appears above it.

    Width and height are what there is room for; what is more is cut off. The last picture stays. A
    terminal that is gone ends the pictures and nothing else.
    """

    def __init__(self, console: Console, frame: Frame, seconds: float = SECONDS) -> None:
        self._console, self._frame, self._seconds = console, frame, seconds
        self._lock, self._over = threading.RLock(), threading.Event()
        self._shown: list[int] = []  # cells of each line that is shown
        self._width = 0  # of the terminal when they were
        self._stderr: Any = None
        self.thread = threading.Thread(target=self._go_on, name="live", daemon=True)

    def __enter__(self) -> Live:
        self._stderr, sys.stderr = sys.stderr, _Above(self, sys.stderr)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.thread.join()
        above, sys.stderr = sys.stderr, self._stderr
        with suppress(OSError):
            self.draw(above.rest() if isinstance(above, _Above) else "")

    def draw(self, above: str = "") -> None:
        """Shows the picture as it is now, below some whole lines. Raises OSError where the terminal
        is gone."""
        with self._lock:
            width, lines, picture = self._drawn()
            # Where all lines stay where they were, nothing is cleared before, and nothing flickers.
            clear = _CLEAR_BELOW if above or width != self._width else ""
            text = f"{self._back(width)}{clear}{above}{picture}{_CLEAR_BELOW}"
            self._shown, self._width = [line.cell_len for line in lines], width
            self._write(_BEGIN + text + _END)

    def _drawn(self) -> tuple[int, list[Text], str]:
        """The terminal's width, the picture's lines, and what shows them."""
        while True:
            self._console.size = width, height = size = self._size()
            # A cursor behind the last column would have its own line cleared of a character.
            lines = list(self._frame(width - 1, height - 1))[: max(height - 1, 0)]
            with self._console.capture() as capture:
                for line in lines:
                    line.rstrip()  # what a narrower terminal would wrap
                    self._console.print(line, no_wrap=True, overflow="crop", crop=True)
            if self._size() == size:
                return width, lines, capture.get().replace("\n", f"{_CLEAR_LINE}\n")

    def _size(self) -> tuple[int, int]:
        """The terminal's columns and rows now, whatever COLUMNS and LINES say of it."""
        with suppress(OSError, ValueError):
            width, height = os.get_terminal_size(self._stderr.fileno())
            if width and height:
                return width, height
        return self._console.width, self._console.height

    def _back(self, width: int) -> str:
        """Moves the cursor to where the picture begins."""
        rows = sum(max(1, -(-cells // width)) for cells in self._shown)
        return f"\r\x1b[{rows}A" if rows else "\r"

    def _write(self, text: str) -> None:
        self._stderr.write(text)
        self._stderr.flush()

    def _go_on(self) -> None:
        with suppress(OSError):  # the terminal is gone
            while not self._over.wait(self._seconds):
                self.draw()


class _Above:
    """Stands in for a terminal's stream: shows whole lines above the picture."""

    def __init__(self, live: Live, stream: Any) -> None:
        self._live, self._stream, self._line = live, stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Takes text; what is not a whole line yet waits for its end."""
        if not isinstance(text, str):
            raise TypeError(f"write() takes text, not {type(text).__name__}")
        whole, newline, self._line = (self._line + text).rpartition("\n")
        if newline:
            self._live.draw(whole + newline)
        return len(text)

    def rest(self) -> str:
        """What never came to the end of its line, as one."""
        return f"{self._line}\n" if self._line else ""

    def flush(self) -> None:
        """There is nothing to wait for."""
