"""Follows a training step by step, and ends it early; the next start goes on from there.

python examples/watch_a_training.py [STEPS]
"""

import sys

from mlx_shakegpt import train
from mlx_shakegpt.training import StepReport


class Enough(Exception):
    """As many steps as were asked for."""


def main(steps: int) -> None:
    def watch(report: StepReport) -> None:
        print(f"{report.step:4d} {report.loss:.3f} {report.tokens_per_second:.0f} tokens/s")
        if report.evaluation:
            print(f"     whole text: {report.evaluation.nll:.3f} nats a token")
        if report.step >= steps:
            raise Enough

    try:
        train(run="watched", preset="quick", on_step=watch, resume=True, checkpoint_every=5)
    except Enough:
        print("python cli.py train --resume --run watched goes on")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
