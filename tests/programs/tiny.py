"""The program with a preset of milliseconds a step, for tests that start it as processes."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_shakegpt.cli import main
from mlx_shakegpt.run import samples
from mlx_shakegpt.settings.config import ModelConfig, Passage
from mlx_shakegpt.settings.presets import PRESETS, Preset
from mlx_shakegpt.training import checkpoint

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=64)
TRAINING = {"batch_size": 6, "context": 32, "short_context": 16, "lr": 1e-3, "warmup_steps": 5}
if pause := os.environ.get("TINY_PAUSE"):  # seconds after a checkpoint, for who waits for one
    save = checkpoint.save

    def save_and_wait(*args, **kwargs):
        saved = save(*args, **kwargs)
        time.sleep(float(pause))
        return saved

    checkpoint.save = save_and_wait
if "TINY_SAMPLES" in os.environ:  # whenever they are asked for, whatever the time they take
    samples.SHARE = 1e6
PRESETS["tiny"] = Preset(MODEL, Passage(tokens=400), TRAINING)
main()
