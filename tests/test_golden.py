"""Files of an earlier version load, and give the figures of then: see golden/make.py."""

import json
import shutil
import subprocess
import sys

import mlx.core as mx
import pytest
from conftest import GOLDEN

from mlx_shakegpt import generate, load
from mlx_shakegpt.run.metrics_file import read_metrics
from mlx_shakegpt.text.tokenizer import encode

EXPECTED = json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))


def test_a_stored_run_speaks_as_it_did(golden_run):
    text = "".join(generate(load("golden"), EXPECTED["prompt"], len(EXPECTED["ids"])))
    assert encode(text) == EXPECTED["ids"]


def test_a_stored_certificate_holds(golden_run, shakegpt):
    again = shakegpt("verify", "--certificate", golden_run / "certificate.json", "--json")
    assert again.json()["differences"] == [] and len(again.json()["compared"]) > 90


def test_a_stored_checkpoint_goes_on_as_it_did(golden_run):
    steps, _ = read_metrics(golden_run / "metrics.jsonl")
    newest = max((golden_run / "checkpoints").iterdir())
    shutil.rmtree(newest)
    (golden_run / "model.safetensors").unlink()
    command = [sys.executable, GOLDEN.parent / "programs" / "golden.py", "train", "--resume"]
    done = subprocess.run(
        [*command, "--run", "golden"], capture_output=True, text=True, check=False
    )
    assert "Resuming golden after step 1190 of 1200" in done.stderr, done.stderr
    again, _ = read_metrics(golden_run / "metrics.jsonl")
    assert again[:1190] == steps[:1190]
    for name in ("step", "epoch", "loss", "lr", "norm"):
        new, old = ([s[name] for s in lines[1190:]] for lines in (again, steps))
        assert len(new) == 10 and new == pytest.approx(old, rel=1e-3), name


def test_a_stored_export_speaks_as_the_run_does(golden_run):
    exported = load(GOLDEN / "exported", golden_run.parents[1] / "sonnets.txt")
    ids = mx.array([encode(EXPECTED["prompt"])])
    logits = exported.language_model.gpt(ids)[0, -1]
    assert logits.shape == (50257,)
    language_model = load("golden").language_model
    own = language_model.expand(
        language_model.gpt(mx.array(language_model.rows_of(ids[0].tolist())[None]))[0, -1]
    )
    assert mx.abs(logits - own).max().item() < 0.05 * mx.abs(own).max().item()
    text = "".join(generate(exported, EXPECTED["prompt"], len(EXPECTED["ids"])))
    assert encode(text) == EXPECTED["ids"]
