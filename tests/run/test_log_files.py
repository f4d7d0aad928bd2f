"""Logs that are cut where a run goes back."""

import json

from mlx_shakegpt.run.log_files import cut_after


def test_entries_of_later_steps_and_torn_lines_go(tmp_path):
    log = tmp_path / "samples.jsonl"
    cut_after(log, 3)
    assert not log.exists()
    lines = [json.dumps({"step": step, "sample": "ROMEO:\u2028"}) + "\n" for step in (1, 3, 4, 9)]
    log.write_text("".join(lines) + '{"step": 2, "sam')
    cut_after(log, 3)
    assert log.read_text() == lines[0] + lines[1]
    before = log.stat().st_ino
    cut_after(log, 3)
    assert log.stat().st_ino == before  # as there was nothing to cut
