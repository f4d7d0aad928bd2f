"""A training as a film: the memory map, token by token, from the first step to the last.

Knows nothing of models; it reads what the run kept of its losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import atomic_path
from ..text.lines import lines_of
from ..verification.memory_map import COLOURS, columns
from .loss_levels import UNTRAINED
from .token_loss_file import Moment

# The format, and the number of colours: a GIF, which packs badly, has fewer.
FORMATS = {".gif": ("GIF", 24), ".png": ("PNG", 64), ".apng": ("PNG", 64)}
MOST_CELLS = 40_000  # of a map: with more, a film is large, and what one shows cannot be seen
WIDTH, LEAST_HEIGHT = 816, 120  # pixels of the map, about
LEFT, TOP, RIGHT, BOTTOM = 84, 50, 104, 52  # pixels around it
# A panel of its own, which suits a white page and a black one.
BACKGROUND, FOREGROUND, NOTHING = (22, 27, 34), (230, 237, 243), (48, 54, 61)
LETTER, LETTERS = 15, 22  # pixels of a letter, and of a line of them
SHADES = 8  # of letters
FRAME, FIRST, LAST = 110, 700, 4000  # milliseconds


def film(
    picture: Path, ids: np.ndarray, moments: Sequence[Moment], first_line: int, name: str
) -> None:
    """Draws a run's moments as an animated GIF or PNG, as the picture's name ends.

    Cells, colours and line numbers are those of the memory map; grey is what was not trained with
    context yet. Of a long text a cell is several tokens, whose geometric mean it shows. Raises
    ValueError for another ending, and for moments that are none or of another text.
    """
    kind, levels = FORMATS.get(picture.suffix.lower(), ("", 0))
    if not kind:
        raise ValueError(f"{picture} must end in {', '.join(FORMATS)}")
    if not moments:
        raise ValueError("the run has kept no losses of its tokens yet; train on with `resume`")
    if len(moments[0].levels) != len(ids):
        raise ValueError(f"the losses are those of {len(moments[0].levels):,} other tokens")
    start = Moment(0, 0.0, 0.0, np.full(len(ids), UNTRAINED, np.uint8))
    canvas = _Canvas(ids, first_line, name, levels)
    frames = [canvas.frame(moment) for moment in (start, *moments)]
    duration = [FIRST, *[FRAME] * (len(frames) - 2), LAST]
    with atomic_path(picture) as temporary:
        frames[0].save(
            temporary, kind, save_all=True, append_images=frames[1:], duration=duration, loop=0,
            optimize=False,
        )  # fmt: skip


class _Canvas:
    """What all frames share, as indices of their palette: `levels` colours of losses, that of
    nothing, and the shades of letters from the background on."""

    def __init__(self, ids: np.ndarray, first_line: int, name: str, levels: int) -> None:
        import matplotlib as mpl
        from PIL import ImageFont

        self.levels, self.paper = levels, levels + 1
        self.tokens = -(-len(ids) // MOST_CELLS)  # in a cell
        self.width = columns(-(-len(ids) // self.tokens))
        self.height = -(-len(ids) // (self.tokens * self.width))
        self.cell = max(1, WIDTH // self.width)
        fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
        self.font = ImageFont.truetype(fonts / "DejaVuSans.ttf", LETTER)
        across, down = self.cell * self.width, self.cell * self.height
        self.bottom, right = TOP + max(down, LEAST_HEIGHT), LEFT + across
        self.map = (slice(TOP, TOP + down), slice(LEFT, right))
        self.ground = np.full((self.bottom + BOTTOM, right + RIGHT), self.paper, np.uint8)
        what = f"each {self.tokens} tokens" if self.tokens > 1 else "each token"
        self._write(self.ground, f"{name}: loss of {what}, in reading order", LEFT, 25)
        self._write(self.ground, "line", LEFT - 10, 25, "r")
        self._write(self.ground, "nats", right + 18, 25)
        lines = lines_of(ids, first_line)
        for row in np.unique(np.linspace(0, self.height - 1, min(self.height, 9)).astype(int)):
            label = f"{lines[row * self.width * self.tokens]:,}"
            self._write(self.ground, label, LEFT - 10, TOP + int((row + 0.5) * self.cell), "r")
        self._scale(right + 18)
        self.palette = _palette(levels)

    def frame(self, moment: Moment) -> Any:
        """A moment as a picture of Pillow's."""
        from PIL import Image

        pixels = self.ground.copy()
        cells = self._cells(moment.levels).reshape(self.height, self.width)
        pixels[self.map] = cells.repeat(self.cell, 0).repeat(self.cell, 1)
        text = f"step {moment.step:,} · epoch {moment.epoch:.1f} · {moment.known:.1%} known"
        self._write(pixels, text, LEFT, self.bottom + 26)
        picture = Image.fromarray(pixels, "P")
        picture.putpalette(self.palette)
        return picture

    def _cells(self, levels: np.ndarray) -> np.ndarray:
        """The palette's indices, (height × width,), of levels, (N,)."""
        padded = np.full((self.height * self.width, self.tokens), UNTRAINED, np.uint8)
        padded.flat[: len(levels)] = levels
        seen = padded != UNTRAINED
        count = seen.sum(1)
        mean = (padded * seen).sum(1) / np.maximum(count, 1)
        cells = np.where(count > 0, mean * self.levels // UNTRAINED, self.levels).astype(np.uint8)
        cells[-(-len(levels) // self.tokens) :] = self.paper
        return cells

    def _scale(self, x: int) -> None:
        """The colours with their losses, from `x` on."""
        height = self.bottom - TOP
        ramp = (np.linspace(1, 0, height) * (self.levels - 1)).round().astype(np.uint8)
        self.ground[TOP : self.bottom, x : x + 14] = ramp[:, None]
        for i, label in enumerate(("10", "1", "0.1", "0.01", "0.001", "0.0001")):
            self._write(self.ground, label, x + 21, TOP + round(i / 5 * (height - 1)))

    def _write(self, pixels: np.ndarray, text: str, x: int, middle: int, side: str = "l") -> None:
        """Letters that begin, or end, at `x`, around a row of pixels."""
        from PIL import Image, ImageDraw

        mask = Image.new("L", (pixels.shape[1], LETTERS))
        ImageDraw.Draw(mask).text((x, LETTERS // 2), text, 255, self.font, anchor=f"{side}m")
        shade = np.rint(np.asarray(mask) / 255 * SHADES).astype(np.uint8)
        rows = pixels[middle - LETTERS // 2 : middle + LETTERS // 2]
        rows[shade > 0] = self.paper + shade[shade > 0]


def _palette(levels: int) -> list[int]:
    """Red, green and blue of each index."""
    import matplotlib as mpl

    colours = mpl.colormaps[COLOURS](np.linspace(0, 1, levels))[:, :3] * 255
    share = np.linspace(0, 1, SHADES + 1)[:, None]
    letters = np.array(BACKGROUND) * (1 - share) + np.array(FOREGROUND) * share
    return np.concatenate([colours, [NOTHING], letters]).round().astype(int).ravel().tolist()
