"""Greedy generation beside mlx_lm and transformers: the same 124M weights, the same tokens.

    python benchmarks/generation.py [--rounds 2]

The model learns 320 tokens of Tiny Shakespeare by heart first (`--steps` of one batch of them),
and is exported; all three programs then speak the same number of tokens after the same prompts,
in turns. Ours looks guesses up in the whole text, and for unknown text in all but what was learned.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import click
import common

from mlx_shakegpt.sharing import markdown

os.environ["SHAKEGPT_DEVICE"] = "cpu"  # where the programs beside it compute

PROGRAMS = ("ours", "mlx_lm", "transformers")
PROMPT, SPOKEN, LEARNED = 16, 256, 320


def work(program: str, folder: str, prompts: str) -> None:
    """Answers a number on stdin with the times and ids of so long a continuation of each prompt."""
    inputs = json.loads(Path(prompts).read_text(encoding="utf-8"))
    speak = {"ours": ours, "mlx_lm": mlx_lm, "transformers": transformers}[program](folder)
    print("ready", flush=True)
    for line in sys.stdin:
        count, answers = int(line), {}
        for name, ids in inputs.items():
            start = time.perf_counter()
            made = speak(ids, name, count)
            answers[name] = {"seconds": time.perf_counter() - start, "ids": made}
        print(json.dumps(answers), flush=True)


def ours(folder):
    from mlx_shakegpt import runtime

    runtime.setup()
    from mlx_shakegpt.generation.decoding import stream
    from mlx_shakegpt.generation.lookup import Lookup
    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.settings.presets import preset
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.weights import model_from_run

    language_model = model_from_run(Path(folder) / "run.safetensors", preset("gpt2-124m").model)
    text = Corpus.load(None, Passage()).ids
    # What such a model says stands in what it learned; as unknown text it is looked up elsewhere.
    texts = {"known": text, "unknown": text[LEARNED + 1 :]}
    return lambda ids, name, count: list(
        stream(language_model, ids, count, lookup=Lookup(texts[name]))
    )


def mlx_lm(folder):
    from mlx_shakegpt import runtime

    runtime.setup()  # the same fast BLAS and kernels as ours
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.generate import generate_step

    model, _ = load(folder)
    return lambda ids, _, count: [
        int(token) for token, _ in generate_step(mx.array(ids), model, max_tokens=count)
    ]


def transformers(folder):
    import torch
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(folder).eval()

    def speak(ids, _, count):
        prompt = torch.tensor([ids])
        with torch.inference_mode():
            made = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=50256,
                eos_token_id=None,
            )
        return made[0, len(ids) :].tolist()

    return speak


def learn(folder: Path, steps: int) -> dict[str, list[int]]:
    """Trains, exports, and returns the prompts by what they are."""
    from mlx_shakegpt import runtime

    runtime.setup()
    import mlx.core as mx
    import numpy as np

    from mlx_shakegpt.model.language_model import LanguageModel
    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.settings.presets import preset, recipe
    from mlx_shakegpt.sharing import export
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import Step, Trainer
    from mlx_shakegpt.training.windows import Batch
    from mlx_shakegpt.weights import run_tensors
    from mlx_shakegpt.weights.safetensors import save_tensors

    text = Corpus.load(None, Passage()).ids
    # One window over and over: learned positions tell its places apart soonest.
    shape = {"batch_size": 1, "context": LEARNED, "short_context": 0, "positions": "learned"}
    config = recipe("recite", "gpt2-124m", dtype="float32", **shape)
    trainer = Trainer(preset("gpt2-124m").model, config, text, lambda *_: None)
    step = Step(trainer.model, trainer.optimizer, config.clip, trainer.absent)
    rows = trainer.vocabulary.rows_of(text[: LEARNED + 1])
    weights = np.ones((1, LEARNED), np.float32)
    batch = Batch(rows[None, :-1], rows[None, 1:], weights, np.zeros(1, int), 0.0)
    loss = 9.0
    for number in range(steps):
        rate = config.lr * min(1.0, (number + 1) / 10, (steps - number) / (steps / 3))
        loss = step(batch, rate).loss
        mx.eval(loss)
    click.echo(f"Learned {LEARNED} tokens in {steps} steps, to {float(loss):.4f} nats.", err=True)
    language_model = LanguageModel(
        trainer.model, trainer.vocabulary, preset("gpt2-124m").model.n_positions
    )
    tensors = run_tensors(trainer.model, trainer.vocabulary, language_model.context)
    save_tensors(folder / "run.safetensors", tensors)
    export.export(language_model, folder / "hf", "float32")
    return {
        "known": text[:PROMPT].tolist(),
        "unknown": text[200_000 : 200_000 + PROMPT].tolist(),
    }


@click.command()
@click.option("--rounds", default=2, show_default=True)
@click.option("--steps", default=45, show_default=True)
@click.option("--worker", nargs=3, hidden=True)
def main(rounds: int, steps: int, worker: tuple[str, str, str] | None) -> None:
    if worker:
        return work(*worker)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = folder / "prompts.json"
        prompts.write_text(json.dumps(learn(folder, steps)), encoding="utf-8")
        workers = {}
        for program in PROGRAMS:
            where = folder if program == "ours" else folder / "hf"
            arguments = ("--worker", program, str(where), str(prompts))
            workers[program] = common.Worker(__file__, *arguments)
        answers = {program: [] for program in PROGRAMS}
        for child in workers.values():  # warms up
            child.ask(64)
        for _ in range(rounds):
            for program, child in workers.items():
                answers[program].append(child.ask(SPOKEN))
        for child in workers.values():
            child.close()
    rows = []
    for text in ("known", "unknown"):
        for program in PROGRAMS:
            pairs = zip(answers["ours"], answers[program], strict=True)
            ratios = [b[text]["seconds"] / a[text]["seconds"] for a, b in pairs]
            seconds = statistics.median(a[text]["seconds"] for a in answers[program])
            same = answers[program][-1][text]["ids"] == answers["ours"][-1][text]["ids"]
            rows.append(
                [
                    f"124M, text {text}",
                    program,
                    f"{SPOKEN / seconds:.1f}",
                    f"{statistics.median(ratios):.2f}",
                    "yes" if same else "no",
                ]
            )
    click.echo(markdown.table(["model", "program", "tokens/s", "times ours", "same tokens"], rows))
    click.echo(
        f"\n{SPOKEN} tokens, batch 1, float32; medians of {rounds} rounds. {common.machine()}"
    )


if __name__ == "__main__":
    main()
