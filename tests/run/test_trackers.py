"""Reports to TensorBoard, trackio and Weights & Biases, read back from what those wrote."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

from mlx_shakegpt.run.trackers import PACKAGES, Sinks
from mlx_shakegpt.training import StepReport

REPORT = StepReport(1, 0.1, 64, 2.5, 1e-3, 1.0, 0.1, 640.0)


def test_tensorboard_shows_the_losses_of_the_log(shakegpt, poem, tiny_preset, home):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--preset", tiny_preset, "--data", poem, "--corpus-tokens", 80]
    assert shakegpt("train", *options, "--steps", 3, "--report-to", "tensorboard").code == 1
    run = home / "weights" / "tiny"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    logged = [(e["step"], pytest.approx(e["loss"])) for e in lines if "loss" in e]
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == logged
    assert len(logged) == 3 and events.Scalars("eval/nll")


def test_a_package_that_is_missing_leaves_no_run_behind(shakegpt, poem, home, monkeypatch):
    monkeypatch.setitem(PACKAGES, "wandb", "no_such_package")
    result = shakegpt("train", "--data", poem, "--run", "p", "--report-to", "wandb")
    assert result.code == 2 and "pip install 'mlx-shakegpt[reports]'" in result.err
    assert not (home / "weights" / "p").exists()


def test_wandb_keeps_a_run_offline(tmp_path):
    """In a process of its own, as wandb starts threads and leaves them."""
    code = (
        "from pathlib import Path\n"
        "from mlx_shakegpt.run.trackers import WandB\n"
        "from mlx_shakegpt.training import StepReport\n"
        f"sink = WandB(Path({str(tmp_path)!r}), 'mine-1a2b', {{'lr': 0.5}}, 0)\n"
        "sink.log(StepReport(1, 0.1, 64, 2.5, 1e-3, 1.0, 0.1, 640.0))\n"
        "sink.log(StepReport(2, 0.2, 128, 1.25, 1e-3, 1.0, 0.1, 640.0))\n"
        "sink.close()\n"
    )
    environment = {"WANDB_MODE": "offline", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = "/usr/bin:/bin"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (written,) = (tmp_path / "wandb").glob("offline-run-*/run-mine-1a2b.wandb")
    content = written.read_bytes()
    assert b"train/loss" in content and b"1.25" in content


def test_trackio_keeps_a_run_on_this_machine_and_goes_on_with_it(tmp_path):
    """In processes of their own, as trackio decides where it writes when it is imported."""
    environment = {"TRACKIO_DIR": str(tmp_path / "kept"), "HOME": str(tmp_path)}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}

    def python(code):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for step, loss in ((1, 2.5), (2, 1.25)):
        assert not python(
            "from pathlib import Path\n"
            "from mlx_shakegpt.run.trackers import Trackio\n"
            "from mlx_shakegpt.training import StepReport\n"
            f"sink = Trackio(Path({str(tmp_path)!r}), 'mine-1a2b', {{'lr': 0.5}}, {step - 1})\n"
            f"sink.log(StepReport({step}, 0.1, 64, {loss}, 1e-3, 1.0, 0.1, 640.0))\n"
            "sink.close()\n"
        )
    read = "import json, trackio\n(run,) = trackio.Api().runs('mlx-shakegpt')\n"
    read += "from trackio.sqlite_storage import SQLiteStorage as kept\n"
    read += "logs = kept.get_logs('mlx-shakegpt', run.name)\n"
    read += "print(json.dumps([run.name, run.config['lr'], logs]))"
    name, lr, logs = json.loads(python(read))
    assert (name, lr) == ("mine-1a2b", 0.5)
    assert [(e["step"], e["train/loss"], e["train/lr"]) for e in logs] == [
        (1, 2.5, 1e-3), (2, 1.25, 1e-3),
    ]  # fmt: skip


def test_a_sink_that_fails_does_not_end_the_training():
    class Broken:
        def log(self, report):
            raise RuntimeError("no route to host")

        def close(self):
            raise AssertionError("it was dropped")

    class Sound:
        count = 0

        def log(self, report):
            self.count += 1

        def close(self):
            self.count = -self.count

    lines, sound = [], Sound()
    sinks = Sinks([Broken(), sound], lines.append)
    sinks.log(REPORT)
    sinks.log(REPORT)
    sinks.close()
    assert sound.count == -2
    assert lines == ["Warning: Broken failed (no route to host); training goes on without it."]


def test_a_missing_package_is_one_line(shakegpt, poem, tiny_preset, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    options = ["--preset", tiny_preset, "--data", poem, "--corpus-tokens", 80, "--steps", 1]
    result = shakegpt("train", *options, "--report-to", "wandb")
    assert result.code == 2 and "mlx-shakegpt[reports]" in result.err.splitlines()[-1]
