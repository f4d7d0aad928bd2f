"""The program with a preset of milliseconds a step, for tests that start it as processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_shakegpt.cli import main
from mlx_shakegpt.settings.config import ModelConfig, Passage
from mlx_shakegpt.settings.presets import PRESETS, Preset

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=64)
TRAINING = {"batch_size": 6, "context": 32, "short_context": 16, "lr": 1e-3, "warmup_steps": 5}
PRESETS["tiny"] = Preset(MODEL, Passage(tokens=400), TRAINING)
main()
