"""A run followed by its files alone, while it trains and after."""

import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import GOLDEN, ROOT, TINY, tiny_training

from mlx_shakegpt.run import (
    checkpoint_progress,
    loss_levels,
    names,
    open_run,
    shown_certificate,
    watched_run,
)
from mlx_shakegpt.run.metrics_file import STEP, GrowingMetrics
from mlx_shakegpt.run.places import Places
from mlx_shakegpt.run.watched_run import WatchedRun
from mlx_shakegpt.settings.config import Passage
from mlx_shakegpt.settings.presets import PRESETS, Preset
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.training import checkpoint, windows
from mlx_shakegpt.verification import certificates, evidence, memory_map
from mlx_shakegpt.weights.safetensors import load_tensors


def step(number, **changes):
    entry = dict.fromkeys(STEP, 0.5) | {"step": number, "tokens": number * 64}
    return json.dumps(entry | changes) + "\n"


@pytest.fixture
def golden(tmp_path):
    """A copy of the pinned run, which is over, and its text."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN / "run", folder)
    return folder, GOLDEN / "sonnets.txt"


@pytest.fixture
def small(monkeypatch, device, poem):
    """Opens a run of a small model, which has learned nothing yet."""
    monkeypatch.setitem(PRESETS, "tiny", Preset(TINY, Passage(), tiny_training().to_json()))

    def start(resume=False, **changes):
        settings = {"preset": "tiny", "data": str(poem), "run": "small", "context": 16}
        return open_run(device, settings | changes, resume)

    return start


def news(watched, generation="", steps=0, evaluations=0, samples=0):
    return watched.progress(generation, steps, evaluations, samples)


def test_a_line_counts_once_it_is_whole(tmp_path):
    file = tmp_path / "metrics.jsonl"
    metrics = GrowingMetrics(file)
    assert not metrics.read_on() and metrics.steps == []
    whole, half = step(1) + step(2), step(3)
    file.write_text(whole + half[:20])
    assert metrics.read_on()
    assert [row[0] for row in metrics.steps] == [1, 2]
    assert not metrics.read_on()
    file.write_text(whole + half)
    assert metrics.read_on()
    assert [row[0] for row in metrics.steps] == [1, 2, 3]
    assert (metrics.generation, metrics.damaged) == (0, 0)


def test_a_log_that_was_cut_and_has_grown_again_is_read_anew(tmp_path):
    file = tmp_path / "metrics.jsonl"
    metrics = GrowingMetrics(file)
    file.write_text(step(1) + step(2) + step(3))
    metrics.read_on()
    # Longer than before when it is next looked at, and with other numbers.
    file.write_text(step(1) + "".join(step(n, dt=0.7) for n in (2, 3, 4, 5)))
    assert metrics.read_on()
    assert [row[0] for row in metrics.steps] == [1, 2, 3, 4, 5]
    assert metrics.steps[1][STEP.index("dt")] == 0.7 and metrics.generation == 1
    file.write_text(step(1))
    assert metrics.read_on() and len(metrics.steps) == 1 and metrics.generation == 2
    file.unlink()
    assert metrics.read_on() and metrics.steps == [] and not metrics.read_on()


def test_damaged_lines_are_left_out_and_counted(tmp_path):
    file = tmp_path / "metrics.jsonl"
    bad = ['{"step": 1, "lo\n', "\0\0\0\n", "[1]\n", step(9, loss="x"), step(9, norm=math.nan)]
    other = ['{"step": 2, "eval_nll": true}\n', '{"sample": "no step"}\n', '"sample"\n']
    file.write_text(step(1) + "".join(bad + other) + '{"step": 1, "note": 1}\n' + step(2))
    metrics = GrowingMetrics(file)
    metrics.read_on()
    assert [row[0] for row in metrics.steps] == [1, 2]
    assert metrics.evaluations == [] and metrics.samples == []
    assert metrics.damaged == len(bad + other)


def test_what_it_knows_of_files_is_what_training_writes():
    assert (
        checkpoint_progress.STATE == checkpoint.STATE
        and checkpoint_progress.ORDER == checkpoint.ORDER
    )
    assert checkpoint_progress.FINAL == checkpoint.MODEL
    assert windows.CAP == loss_levels.UNTRAINED_LOSS
    assert memory_map.LEAST_NLL == loss_levels.LEAST
    assert memory_map.LARGEST_NLL == loss_levels.MOST
    assert shown_certificate.CERTIFICATE == evidence.CERTIFICATE
    assert shown_certificate.FORMAT == certificates.FORMAT


def test_a_token_has_a_byte_that_says_its_loss(golden):
    folder, _ = golden
    latest = checkpoint_progress.newest_progress(folder, None)
    seen = np.array(load_tensors(folder / "checkpoints" / "00001200" / checkpoint.ORDER)["seen"])
    assert np.array_equal(latest.losses, seen) and (latest.step, latest.total) == (1200, 1200)
    levels = np.frombuffer(loss_levels.levels_of(latest.losses), np.uint8)
    assert len(levels) == 328 and levels[0] == loss_levels.UNTRAINED
    scale = (loss_levels.MOST / loss_levels.LEAST) ** (1 / (loss_levels.LEVELS - 1))
    told = loss_levels.LEAST * scale ** levels[1:].astype(float)
    inside = seen[1:] > loss_levels.LEAST
    assert np.allclose(told[inside], seen[1:][inside], rtol=0.025)
    assert (levels[1:][~inside] == 0).all() and inside.any()
    assert loss_levels.known(latest.losses) == pytest.approx((seen[1:] < math.log(2)).mean())


def test_a_damaged_or_half_removed_checkpoint_gives_way_to_the_one_before(golden):
    folder, _ = golden
    newest = folder / "checkpoints" / "00001200"
    latest = checkpoint_progress.newest_progress(folder, None)
    assert checkpoint_progress.newest_progress(folder, latest) is latest
    order = newest / checkpoint.ORDER
    content = order.read_bytes()
    order.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert checkpoint_progress.newest_progress(folder, None).step == 1190
    order.unlink()
    assert checkpoint_progress.newest_progress(folder, None).step == 1190
    shutil.rmtree(folder / "checkpoints")
    assert checkpoint_progress.newest_progress(folder, latest) is latest
    assert checkpoint_progress.newest_progress(folder, None) is None


def test_a_run_is_followed_from_its_first_step_to_its_end(small):
    run = small(steps=30)
    watched = WatchedRun(run.path)
    first = news(watched)
    assert first["state"]["phase"] == "waiting" and first["map"] is None
    assert first["state"]["total"] == 30 and first["state"]["exact"]
    assert watched.map() == ("", b"")
    have, phases = 0, []
    for report in run.train(checkpoint_every=10):
        latest = news(watched, first["generation"], have)
        assert latest["steps"]["step"] == [report.step]
        assert latest["steps"]["loss"] == [pytest.approx(report.loss, rel=1e-4)]
        have += 1
        phases.append(latest["state"]["phase"])
    assert set(phases[:-1]) == {"training"}
    run.close()
    last = news(watched, first["generation"], have)
    state = last["state"]
    assert (state["phase"], state["step"], state["reached"]) == ("over", 30, False)
    assert state["left"] is None and last["steps"]["step"] == []
    assert last["map"]["step"] == 30 and last["map"]["tokens"] == len(run.corpus.ids)
    version, levels = watched.map()
    assert version == last["map"]["version"] and len(levels) == len(run.corpus.ids)
    trained = run.trainer.curriculum.losses.nll != windows.CAP
    assert [level != 255 for level in levels] == trained.tolist() and trained.any()
    everything = news(watched, "another")
    assert len(everything["steps"]["step"]) == 30 and everything["evaluations"]
    assert json.loads(json.dumps(everything, allow_nan=False)) == everything


def test_a_longer_plan_is_one_before_the_next_checkpoint_says_so(small):
    run = small(steps=10)
    list(run.train())
    run.close()
    watched = WatchedRun(run.path)
    assert news(watched)["state"]["phase"] == "over"
    run = small(resume=True, steps=20)
    reports = run.train()
    next(reports)
    state = news(watched)["state"]
    assert (state["phase"], state["step"], state["total"]) == ("training", 11, 20)
    assert state["exact"] and state["left"] == pytest.approx(9 * state["pace"])
    reports.close()
    run.close()


def test_steps_at_most_are_told_from_the_epochs_so_far(small):
    run = small(steps=0, epochs=40.0)
    watched, reports = WatchedRun(run.path), run.train()
    for _ in range(8):
        next(reports)
    state = news(watched)["state"]
    assert not state["exact"]
    assert state["total"] == pytest.approx(run.trainer.state.total, rel=0.1)
    reports.close()
    run.close()


def test_a_silent_run_is_not_said_to_train(golden):
    folder, _ = golden
    file = folder / names.METRICS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:200]))
    assert news(WatchedRun(folder))["state"]["phase"] == "training"
    hour_ago = time.time() - 3600
    os.utime(file, (hour_ago, hour_ago))
    watched = WatchedRun(folder)
    state = news(watched)["state"]
    assert state["phase"] == "quiet" and 3590 < state["silent"] < 3700
    assert state["left"] is None
    watched.ended = True
    assert news(watched)["state"]["phase"] == "stopped"


def test_answers_are_of_a_bounded_size(golden, monkeypatch):
    folder, text = golden
    monkeypatch.setattr(watched_run, "MOST_STEPS", 500)
    monkeypatch.setattr(watched_run, "MOST_TOKENS", 10)
    watched, have, generation, sizes = WatchedRun(folder, text), 0, "", []
    while True:
        answer = news(watched, generation, have)
        generation = answer["generation"]
        sizes.append(len(answer["steps"]["step"]))
        have += sizes[-1]
        if not answer["more"]:
            break
    assert sizes == [500, 500, 200]
    assert len(watched.tokens(0, 10**9)["text"]) == 10
    assert watched.tokens(10**9, 10**9 + 5) == {"start": 10**9, "text": [], "line": []}


def test_samples_are_shown_with_what_stands_in_the_text(golden):
    folder, text = golden
    said = "And lo: Shall I compare thee to a summer's day? <b>"
    with open(folder / names.SAMPLES, "a") as file:
        file.write(json.dumps({"step": 1200, "sample": said}) + "\n")
    answer = news(WatchedRun(folder, text))
    (sample,) = answer["samples"]
    assert "".join(piece for piece, _ in sample["pieces"]) == said and sample["step"] == 1200
    marked = [(piece, line) for piece, line in sample["pieces"] if line]
    lines = text.read_text().splitlines()
    assert marked == [("Shall I compare thee to a summer's day?", marked[0][1])]
    assert "compare thee" in lines[marked[0][1] - 1]
    assert not answer["state"]["known"] and len(answer["steps"]["step"]) == 1200


def test_each_token_has_its_own_characters_and_its_line(tmp_path):
    from mlx_shakegpt.run.config_file import LearnedText

    file = tmp_path / "text.txt"
    file.write_text("Ein Käfer – größer als 猫 und 🦜!\n\nDie letzte Zeile, ohne Ende 🦜🦜" * 3)
    corpus = Corpus.load(file, Passage())
    places = Places(LearnedText.of(corpus))
    n = len(corpus.ids)
    whole = places.tokens(0, n)
    assert "".join(whole["text"]) == file.read_text() and "\ufffd" not in whole["text"]
    parts = [places.tokens(start, start + 7) for start in range(0, n, 7)]
    assert [piece for part in parts for piece in part["text"]] == whole["text"]
    assert [line for part in parts for line in part["line"]] == whole["line"]
    assert whole["line"][0] == 1 and whole["line"][-1] == 7


def test_a_text_that_is_gone_or_another_is_said_to_be(golden, tmp_path):
    folder, _ = golden
    gone = news(WatchedRun(folder, tmp_path / "gone.txt"))["map"]["missing"]
    assert "no text file" in gone and "gone.txt" in gone
    other = tmp_path / "other.txt"
    other.write_text("Another text altogether, of some length. " * 80)
    watched = WatchedRun(folder, other)
    assert "is another one now" in news(watched)["map"]["missing"]
    assert watched.tokens(0, 5)["text"] == []


def test_a_certificate_is_shown_in_short_and_a_damaged_one_not(golden):
    folder, _ = golden
    shown = news(WatchedRun(folder))["certificate"]
    assert shown["certified"] and [rate["k"] for rate in shown["rates"]] == [32, 50]
    paper = json.loads((folder / "certificate.json").read_text())
    for part in ("text", "weights"):  # nor another one's
        other = paper | {part: paper[part] | {"sha256": "0" * 64}}
        (folder / "certificate.json").write_text(json.dumps(other))
        assert news(WatchedRun(folder))["certificate"] is None
    for change in ({"format": "mlx-shakegpt certificate 2"}, {"nll": float("nan")}):
        (folder / "certificate.json").write_text(json.dumps(paper | change))
        assert news(WatchedRun(folder))["certificate"] is None
    for damage in ("{", "[]", '{"extraction": 3}', '{"extraction": [], "nll": "x"}'):
        (folder / "certificate.json").write_text(damage)
        assert news(WatchedRun(folder))["certificate"] is None


def test_a_folder_that_cannot_be_read_for_a_while_is_said_and_not_the_end(golden):
    folder, _ = golden
    watched = WatchedRun(folder)
    steps = len(news(watched)["steps"]["step"])
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config[:50])
    broken = news(watched)
    assert "cannot be read now" in broken["problems"][0]
    assert len(broken["steps"]["step"]) == steps
    (folder / "config.json").write_text(config)
    assert news(watched)["problems"] == []


def test_a_watched_run_needs_no_mlx():
    code = (
        "import sys\n"
        "from mlx_shakegpt.run.names import find_run\n"
        "from mlx_shakegpt.sharing import watch_beside, watch_server\n"
        f"from pathlib import Path; folder = Path({str(GOLDEN / 'run')!r})\n"
        "watched = watch_server.WatchedRun(folder)\n"
        "assert watched.progress('', 0, 0, 0)['map'] and watched.map()[1]\n"
        "assert not {'mlx', 'mlx.core', 'mlx_lm', 'gradio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_text_that_is_not_where_it_was_said_to_be_is_refused(golden, tmp_path):
    folder, text = golden
    with pytest.raises(ValueError, match=r"no text file .*; name its place"):
        WatchedRun(folder, tmp_path / "nowhere").check_text()
    WatchedRun(folder, text).check_text()
    WatchedRun(folder).check_text()  # which may be gone
