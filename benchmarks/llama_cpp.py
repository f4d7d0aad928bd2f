"""Lets llama.cpp speak an exported GGUF file, beside this program.

    pip install xllamacpp
    python cli.py export --run quick --to FILE.gguf
    python benchmarks/llama_cpp.py FILE.gguf --run quick

Both get the same prompts as text: "ROMEO:" and true lines of the learned passage from random
places. Exits 1 where llama.cpp's greedy tokens or text are not ours. Its cache is set to float32
here; by default it rounds keys and values to float16. A file in half precision may differ at ties.
"""

import json
import random
import urllib.request
from pathlib import Path

import click
import xllamacpp

from mlx_shakegpt import load
from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.text.tokenizer import decode, encode


class LlamaCpp:
    """llama.cpp's server with a model file, on the CPU."""

    def __init__(self, path: Path) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.n_parallel, params.n_gpu_layers, params.verbosity = 1, 0, -1
        self._server = xllamacpp.Server(params)

    def speak(self, prompt: str, tokens: int) -> tuple[list[int], str]:
        """The ids and the text of greedy decoding after a prompt."""
        request = {"prompt": prompt, "n_predict": tokens, "temperature": 0.0}
        request |= {"return_tokens": True, "cache_prompt": False}
        address = f"{self._server.listening_address}/completion"
        with urllib.request.urlopen(address, json.dumps(request).encode()) as answer:
            reply = json.load(answer)
        return reply["tokens"], reply["content"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--run", help="The run that was exported; else the one trained last.")
@click.option("--places", default=20, show_default=True, help="Random places to start from.")
@click.option("--seed", type=int, help="Of the places; else they are other ones each time.")
def main(file: Path, run: str | None, places: int, seed: int | None) -> None:
    """Prints how many continuations are the same, and the first that is not."""
    trained = load(run)
    lines = decode(trained.corpus.ids.tolist()).splitlines()
    starts = random.Random(seed).sample(range(len(lines)), min(places, len(lines)))
    prompts = ["ROMEO:", *(line for start in starts if (line := lines[start]))]
    theirs = LlamaCpp(file)
    same = compared = 0
    for prompt in prompts:
        ids = encode(prompt)
        tokens = trained.language_model.context - len(ids)
        if tokens < 1:
            continue
        compared += 1
        ours = list(stream(trained.language_model, ids, tokens))
        spoken, text = theirs.speak(prompt, tokens)
        # llama.cpp leaves out a character that is not finished.
        if spoken == ours and text == decode(ours).rstrip("\ufffd"):
            same += 1
        else:
            print(f"{prompt!r}\n  llama.cpp: {text!r}\n  ours:      {decode(ours)!r}")
    print(f"{same} of {compared} continuations are the same, token by token")
    if same < compared or not compared:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
