"""A training that is killed, damaged and starved of disk ends as one that was left alone."""

import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from torture import torture

SECONDS = 40


def test_a_tortured_training_ends_as_an_undisturbed_one(tmp_path, poem, pinned):
    options = ("--preset", "quick", "--data", str(poem), "--context", "16", "--batch-size", "2")
    options += ("--steps", "120", "--checkpoint-every", "3", "--target-loss", "1e-9")
    counts = torture(tmp_path / "tortured", options, SECONDS, seed=1, longest=6.0).counts
    assert counts["killed"] >= 5 and counts["trainings"] >= 1
    assert counts["killed while saving"] >= 1
    # Between two checkpoints are 3 steps; a damaged one costs 3 more.
    most = 3 * counts["killed"] + 3 * counts["checkpoints damaged"]
    assert counts["steps lost"] <= most
