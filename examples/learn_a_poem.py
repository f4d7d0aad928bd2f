"""Learns a small text by heart, and says it from its first three words on.

python examples/learn_a_poem.py poem.txt
"""

import sys
from pathlib import Path

from mlx_shakegpt import generate, train


def main(path: str) -> None:
    model = train(path, run="a-poem", preset="quick", resume=True)
    prompt = " ".join(Path(path).read_text(encoding="utf-8").split()[:3])
    print(prompt, end="")
    for piece in generate(model, prompt, max_tokens=60):
        print(piece, end="", flush=True)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
