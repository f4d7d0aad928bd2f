"""The program, which sends itself a signal while it handles the report of its n-th step, or
several, one right after the other.

python tests/programs/stopping.py N SIGNAL[,SIGNAL] train …
"""

import signal
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from mlx_shakegpt.cli import main
from mlx_shakegpt.run import metrics_file

at, names = int(sys.argv.pop(1)), sys.argv.pop(1).split(",")
json_lines, reports = metrics_file.json_lines, count(1)


def stopping(step):
    if next(reports) == at:
        for name in names:
            signal.raise_signal(signal.Signals[name])
    return json_lines(step)


metrics_file.json_lines = stopping
main()
