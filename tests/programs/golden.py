"""The program with the preset of the golden files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_shakegpt.cli import main
from mlx_shakegpt.settings.config import ModelConfig, Passage
from mlx_shakegpt.settings.presets import PRESETS, Preset

MODEL = ModelConfig(n_layer=2, n_head=2, n_embd=24, n_positions=64)
TRAINING = {"batch_size": 4, "context": 64, "short_context": 32, "lr": 8e-3, "warmup_steps": 10}
TRAINING |= {
    "steps": 1200,
    "grow": 0.4,
    "hold": 0.6,
    "beta2": 0.99,
    "finish": False,
    "target_loss": 1e-3,
    "dtype": "float32",
}
PRESETS["golden"] = Preset(MODEL, Passage(), TRAINING)
main()
