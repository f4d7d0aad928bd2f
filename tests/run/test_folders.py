"""Runs in weights/ beside other folders, and their texts where they have moved to."""

import json
import shutil

import pytest
from conftest import GOLDEN, stored_run

from mlx_shakegpt import load
from mlx_shakegpt.run import find_run, of_run


def test_an_export_in_weights_is_no_run(home, golden_run):
    shutil.copytree(GOLDEN / "exported", home / "weights" / "exported")
    assert find_run(None) == golden_run
    with pytest.raises(ValueError, match=r"no run 'exported' in .* there are: golden"):
        find_run("exported")


def test_a_damaged_run_is_still_the_one_trained_last(home, golden_run):
    damaged = stored_run(home, "newer")
    (damaged / "config.json").write_text("{")
    assert find_run(None) == damaged


def test_a_text_that_has_moved_is_measured_where_it_was_learned(home, golden_run):
    config = json.loads((golden_run / "config.json").read_text())
    config["corpus"] |= {"first_line": 3, "tokens": 40}
    (golden_run / "config.json").write_text(json.dumps(config))
    moved = (home / "sonnets.txt").rename(home / "moved.txt")
    passage = of_run("golden", moved).corpus.passage
    assert (passage.first_line, passage.tokens) == (3, 40)
    other = home / "other.txt"
    other.write_bytes(moved.read_bytes() + b"More.\n")
    passage = of_run("golden", other).corpus.passage
    assert (passage.first_line, passage.tokens) == (1, 0)


def test_a_run_that_is_named_as_a_model_is_pointed_out(shakegpt, golden_run):
    failed = shakegpt("generate", "From", "--model", golden_run)
    assert failed.code == 2 and f"{golden_run} is a run's folder; give the run's name as --run" in (
        failed.err
    )
    with pytest.raises(ValueError, match="is a run's folder"):
        load(golden_run)


def test_a_home_folder_is_meant_by_a_tilde_that_a_shell_left(shakegpt, golden_run, monkeypatch):
    monkeypatch.setenv("HOME", str(golden_run.parent))
    drawn = shakegpt("plot", "golden", "--to=~/curve.png")
    assert drawn.code == 0 and (golden_run.parent / "curve.png").is_file(), drawn.err
