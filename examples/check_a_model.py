"""Measures what any GPT-2, from a run, a folder or the hub, knows of a text by heart.

python examples/check_a_model.py openai-community/gpt2 speech.txt
"""

import sys

from mlx_shakegpt import load, verify


def main(source: str, text: str | None) -> None:
    proof = verify(load(source, text), samples=400)
    figures = proof.figures
    print(f"{figures['nll']:.3f} nats a token; {figures['bits_per_byte']:.3f} bits a byte")
    for e in figures["extraction"]:
        print(f"em@{e['k']},{e['m']}: {e['rate']:.3f} [{e['low']:.3f}, {e['high']:.3f}]")
    print("certified" if figures["certified"] else f"not certified: {figures['reasons'][0]}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
