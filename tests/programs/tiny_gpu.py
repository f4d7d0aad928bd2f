"""tiny.py where every answer about the device is a GPU's: bfloat16 weights with float32 masters,
MLX's own fused operations, numbers read a step late. The work is done on the CPU."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_shakegpt import runtime
from mlx_shakegpt.runtime import device

device.on_gpu = runtime.on_gpu = lambda: True
runpy.run_path(str(Path(__file__).with_name("tiny.py")), run_name="__main__")
