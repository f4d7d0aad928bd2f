"""Curves and bars out of characters."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
_EMPTY = 0x2800  # the first of Unicode's braille patterns, with no dot
# The bit of each dot, by row from above and column; a character has four rows of two.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def curve(heights: Sequence[float], rows: int) -> list[str]:
    """A line through heights from 0 to 1, two to a character, as `rows` lines of braille.

    Neighbours are joined, so that the line has no gaps.
    """
    top = 4 * rows - 1
    levels = [round((1 - min(max(height, 0.0), 1.0)) * top) for height in heights]
    cells = [[_EMPTY] * -(-len(levels) // 2) for _ in range(rows)]
    before = levels[0] if levels else 0
    for x, level in enumerate(levels):
        joined = range(level, before) if level < before else range(before + 1, level + 1)
        for y in {level, *joined}:
            cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
        before = level
    return ["".join(map(chr, row)).replace(chr(_EMPTY), " ") for row in cells]


def strip(shares: Sequence[float]) -> str:
    """Shares from 0 to 1 as blocks of as many heights: only nothing is the lowest, only all the
    highest."""
    inner = len(BLOCKS) - 2
    return "".join(
        BLOCKS[0] if share <= 0 else BLOCKS[-1] if share >= 1 else BLOCKS[1 + int(share * inner)]
        for share in shares
    )
