"""Damaged and forged files are refused, whatever is wrong with them."""

from fuzz import fuzz

INPUTS = 2000
# Who follows a run sees nothing of a damaged file, and a wrong loss is a loss.
TOLERANT = {"token losses", "checkpoint, as followed", "certificate, as shown"}


def test_no_damaged_file_does_more_than_be_refused(tmp_path, home):
    counts = fuzz(tmp_path, INPUTS, seed=2)
    assert sum(c["taken"] + c["refused"] for c in counts.values()) == INPUTS
    for name, count in counts.items():
        if name not in TOLERANT:
            assert count["refused"] > 0.3 * (count["taken"] + count["refused"]), name
