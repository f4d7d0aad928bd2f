"""How a training in its own process may end: by signals, and by what others do to its files."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import PATIENCE, ROOT

from mlx_shakegpt.training import checkpoint


def arguments(poem):
    """What the program is called with to train for minutes."""
    chosen = ["train", "--preset", "quick", "--data", str(poem), "--run", "q", "--context", "16"]
    return [*chosen, "--batch-size", "2", "--epochs", "5000", "--target-loss", "0.0001"]


@contextmanager
def training(home, poem, *options, ignored=()):
    """A training that would take minutes, after its tenth step; started to ignore some signals."""
    command = [sys.executable, "cli.py", *arguments(poem), *options]
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    started = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    for number, handler in before.items():
        signal.signal(number, handler)
    with started as process:
        try:
            for line in process.stderr:
                if line.startswith("step") and int(line.split()[1]) >= 10:
                    break
            else:
                pytest.fail("it ended before its tenth step")
            yield process
        finally:
            process.kill()  # else a failure would wait for its end


def newest(home):
    path, damaged = checkpoint.newest(home / "weights" / "q" / "checkpoints")
    assert not damaged
    return path


def test_a_closed_terminal_saves_first(home, poem):
    with training(home, poem) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    logged = (home / "weights" / "q" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in logged]
    assert int(newest(home).name) == steps[-1] >= 10


def test_what_nohup_ignores_does_not_end_a_training(home, poem):
    with training(home, poem, ignored=[signal.SIGHUP]) as process:
        process.send_signal(signal.SIGHUP)
        lines = [next(process.stderr) for _ in range(3)]
        assert all(line.startswith(("step", "eval", "known", "says")) for line in lines)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


def test_a_log_that_lost_its_end_costs_lines_and_no_steps(home, poem):
    with training(home, poem, "--checkpoint-every", "5") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    at, log = int(newest(home).name), home / "weights" / "q" / "metrics.jsonl"
    os.truncate(log, log.stat().st_size - 30)  # within its last line, as after a power cut
    with training(home, poem, "--resume") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert at + 1 in steps and max(steps) == int(newest(home).name) > at
    assert at not in [json.loads(x)["step"] for x in log.read_text().splitlines() if "loss" in x]


def test_a_terminal_that_hangs_up_twice_is_one_that_is_gone(home, poem):
    command = [sys.executable, "tests/programs/stopping.py", "12", "SIGHUP,SIGHUP"]
    command += arguments(poem)
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 130 and int(newest(home).name) >= 12


def test_a_closed_terminal_silences_no_file(home, poem, tmp_path):
    command = [sys.executable, "tests/programs/stopping.py", "12", "SIGHUP", *arguments(poem)]
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    with (tmp_path / "out").open("w") as out:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.PIPE,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    assert done.returncode == 130
    assert (tmp_path / "out").read_text().startswith("Stopped run 'q' after")


def test_a_second_signal_leaves_at_once_with_the_last_checkpoint_intact(home, poem):
    command = [sys.executable, "tests/programs/stopping.py", "12", "SIGTERM,SIGINT"]
    command += [*arguments(poem), "--checkpoint-every", "5"]
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 130
    assert newest(home).name == f"{10:08}"  # of twelve steps
    # What the dead process held is free again.
    with training(home, poem, "--resume") as process:
        process.send_signal(signal.SIGTERM)
        _, output = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "another process" not in output


@pytest.mark.parametrize("lost", ["metrics.jsonl", "."])
def test_files_that_are_taken_away_end_the_run_with_one_line(home, poem, lost):
    folder = home / "weights" / "q"
    with training(home, poem, "--checkpoint-every", "5") as process:
        if lost == ".":
            shutil.rmtree(folder)
        else:
            (folder / lost).unlink()
        _, output = process.communicate(timeout=PATIENCE)
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert process.returncode == 2 and len(errors) == 1 and "Traceback" not in output
    assert "check the path" in errors[0]
    if lost != ".":
        assert newest(home) is not None
