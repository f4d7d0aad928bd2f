"""What a terminal shows of a training: progress, loss, what is known of the text, what it says."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from ..run.loss_levels import known, known_by_place
from ..run.progress import RunProgress
from ..run.samples import TextSample
from ..text.quotations import pieces
from . import braille
from .common import visible

GUTTER = 10  # columns of the labels, with a space behind each
SCALE = 7  # columns of a curve's scale
WIDEST = 100  # columns; longer lines are hard to follow
CURVE_ROWS, SAMPLE_ROWS = 4, 8  # at most
FEWEST_ROWS = 9  # of a terminal that has room for more than progress
QUIET, LOSS, KNOWN = "dim", "cyan", "green"


class Panel:
    """The picture of a run's progress, for `Live`; `sample` is what the model said last.

    Its colours are the terminal's own, so that they can be read on dark and light ones. Where there
    are none, what is known is bold.
    """

    def __init__(self, console: Console, name: str, progress: RunProgress) -> None:
        self._console, self._name, self._progress = console, visible(name, kept=""), progress
        colourless = console.no_color or console.color_system is None
        self._known_style = "bold" if colourless else KNOWN
        self.sample: TextSample | None = None

    def __call__(self, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` columns; none before the first step is done."""
        if self._progress.report is None:
            return []
        room = max(min(width, WIDEST) - GUTTER, 1)
        lines = list(_labelled([self._name], self._head(room)))
        if height >= FEWEST_ROWS:
            curve = self._curve(room, max(2, min(CURVE_ROWS, height // 4 - 1)))
            lines += _labelled(["loss", f"{self._progress.report.loss:.4g}"], curve)
            lines += self._known(room)
            if self._progress.trainer.state.evaluations:
                lines += _labelled(["eval"], [self._evaluation(room)])
        left = min(height - len(lines), SAMPLE_ROWS + 1)
        if (sample := self.sample) and left > 1:
            lines += _labelled(["says", f"at {sample.step:,}"], self._said(sample, room, left))
        for line in lines[:height]:
            line.truncate(width)
        return lines[:height]

    def _head(self, room: int) -> list[Text]:
        """How far it is, in words and as a bar."""
        progress, report = self._progress, self._progress.report
        assert report is not None
        total = progress.trainer.state.total
        parts = [f"step {report.step:,} of {total:,}"]
        if left := progress.seconds_to_target:
            parts.append(f"target in {clock(left)}")
        if left := progress.seconds_to_end:  # a run that reaches its goal ends before
            parts.append(f"≤ {clock(left)} left")
        parts += [f"epoch {report.epoch:.1f}", f"{clock(progress.seconds)} so far"]
        parts += [f"{report.tokens_per_second:,.0f} tokens/s", f"rate {report.lr:.1e}"]
        done = room * report.step // max(total, 1)
        bar = Text.assemble(("━" * done, LOSS), ("─" * (room - done), QUIET))
        return [_joined(parts, room), bar]

    def _curve(self, room: int, height: int) -> list[Text]:
        """The loss since the first step, on a logarithmic scale."""
        import numpy as np

        columns = max(room - SCALE, 1)
        means = np.log(np.maximum(self._progress.losses.means(2 * columns), 1e-9))
        low, high = float(means.min()), float(means.max())
        heights = (means - low) / (high - low) if high > low else means * 0
        rows = braille.curve(heights.tolist(), height)
        scale = [f"{np.exp(high):.4g}", *[""] * (height - 2), f"{np.exp(low):.4g}"]
        return [
            Text.assemble((f"{label[: SCALE - 1]:>{SCALE - 1}} ", QUIET), (row, LOSS))
            for label, row in zip(scale, rows, strict=True)
        ]

    def _known(self, room: int) -> list[Text]:
        """What is known of the text, place by place."""
        losses = self._progress.token_losses
        if len(losses) < 2:
            return []
        row = Text(braille.strip(known_by_place(losses, room).tolist()), KNOWN)
        about = _joined(["of the text", "from its beginning to its end"], room, ", ", QUIET)
        return list(_labelled(["known", f"{known(losses):.1%}"], [row, about]))

    def _evaluation(self, room: int) -> Text:
        """The last evaluation, in words."""
        trainer = self._progress.trainer
        last = trainer.state.evaluations[-1]
        about = "" if last["complete"] else "about "
        parts = [f"whole text {about}{last['nll']:.4f}", f"target {trainer.config.target_loss:g}"]
        if "extracted" in last:
            parts.append(f"{last['extracted']:.1%} recited")
        return _joined([*parts, f"at step {last['step']:,}"], room)

    def _said(self, sample: TextSample, room: int, rows: int) -> list[Text]:
        """What the model says, with what it knows word for word marked, and how much that is."""
        marked = Text()
        for piece, is_known in pieces(sample.text, sample.spans):
            marked.append(visible(piece), self._known_style if is_known else "")
        shown = [line for line in self._wrapped(marked, room) if line.plain.strip()]
        if len(shown) > rows - 1:
            shown = shown[: rows - 1]
            shown[-1].truncate(room - 2)
            shown[-1].append(" …", QUIET)
        parts = [f"{sample.share:.0%} word for word in the text"]
        if sample.longest:
            parts.append(f"up to {sample.longest} words")
        return [*shown, _joined(parts, room, style=QUIET)]

    def _wrapped(self, text: Text, room: int) -> list[Text]:
        """A text in lines that there is room for."""
        text.expand_tabs(4)
        lines = list(text.wrap(self._console, room))
        for line in lines:
            line.rstrip()
        return lines


def clock(seconds: float) -> str:
    """A span of time like 0:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _labelled(labels: list[str], lines: list[Text]) -> Iterator[Text]:
    """Lines with labels before the first ones."""
    for index in range(max(len(labels), len(lines))):
        label = Text(labels[index] if index < len(labels) else "")
        label.truncate(GUTTER - 1, overflow="ellipsis", pad=True)
        line = Text.assemble((f"{label.plain} ", "" if index else "bold"))
        yield line.append_text(lines[index]) if index < len(lines) else line


def _joined(parts: list[str], room: int, between: str = " · ", style: str = "") -> Text:
    """The first of some parts, and of the others those that there is room for."""
    words = parts[0]
    for part in parts[1:]:
        if len(words) + len(between) + len(part) <= room:
            words += between + part
    line = Text(words, style)
    line.truncate(room, overflow="ellipsis")
    return line
