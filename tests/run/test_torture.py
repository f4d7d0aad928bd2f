"""A training that is stopped, killed, damaged and starved of disk ends as an undisturbed one."""

from collections import Counter

import pytest
from torture import torture

SECONDS = 10


@pytest.mark.parametrize(
    ("lines", "windows", "seed"),
    [
        (8, ("--context", "16", "--batch-size", "2"), 1),
        # Three epochs a step; with this seed, a lost epoch shows after the first stops.
        (2, ("--context", "4", "--batch-size", "20", "--hard", "1"), 3),
    ],
)
def test_a_tortured_training_ends_as_an_undisturbed_one(
    tmp_path, poem, pinned, lines, windows, seed
):
    poem.write_text("".join(poem.read_text().splitlines(keepends=True)[:lines]))
    options = ("--preset", "quick", "--data", str(poem), *windows)
    options += ("--steps", "90", "--checkpoint-every", "3", "--target-loss", "1e-9")
    counts = Counter()
    for more in range(5):  # a machine that is busy, or quick, may leave no time to kill one
        home = tmp_path / str(more)
        counts += torture(home, options, SECONDS, seed + 100 * more, longest=6.0 - more).counts
        if counts["killed"]:
            break
    assert counts["trainings"] >= 1 and counts["stopped"] >= 3 and counts["killed"] >= 1
    # Between two checkpoints are 3 steps; a damaged one costs 3 more.
    most = 3 * counts["killed"] + 3 * counts["checkpoints damaged"]
    assert counts["steps lost"] <= most
