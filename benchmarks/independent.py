"""Counts with another GPT-2, Hugging Face's in PyTorch, what a certificate states of a model.

    python cli.py export --run quick --to FOLDER
    python benchmarks/independent.py FOLDER [--certificate weights/quick/certificate.json]

Greedy decoding by transformers from true tokens at random offsets of the learned passage; the text
is encoded by transformers too. Nothing of this package is imported. Exits 1 where more than one
offset, which a tie may explain, is not as a certificate of every offset states; or where the counts
do not fit the interval of a sample.
"""

import json
import random
from pathlib import Path

import click
import torch
from common import ROOT
from transformers import AutoTokenizer, GPT2LMHeadModel
from transformers.utils.logging import disable_progress_bar

LENGTHS = ((32, 32), (50, 50))  # tokens of the prompt, and of what is to be said
Z = 2.575829  # of a two-sided interval of 99 %
TIES = 1  # offsets that rounding may decide otherwise
TOGETHER = 25  # prompts that are decoded in one batch


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The score interval of a share of `hits` in `n` draws (Wilson, 1927)."""
    middle = (hits + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * (hits * (n - hits) / n + Z * Z / 4) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def passage(folder: Path, text: Path) -> list[int]:
    """The ids that a folder's config.json says it has learned, of a text file."""
    learned = json.loads((folder / "config.json").read_text(encoding="utf-8"))["learned_text"]
    lines = text.read_bytes().decode().split("\n")
    rest = "\n".join(lines[learned["first_line"] - 1 :])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(rest, verbose=False)["input_ids"][: learned["tokens"]]


def known(model: GPT2LMHeadModel, ids: list[int], offsets: list[int], k: int, m: int) -> set[int]:
    """The offsets at which k tokens make the model say m that follow these k in the text."""
    whole = {tuple(ids[o : o + k + m]) for o in range(len(ids) - k - m + 1)}
    right = set()
    for start in range(0, len(offsets), TOGETHER):
        part = offsets[start : start + TOGETHER]
        prompts = torch.tensor([ids[o : o + k] for o in part])
        output = model.generate(
            prompts, attention_mask=torch.ones_like(prompts), do_sample=False,
            min_new_tokens=m, max_new_tokens=m, pad_token_id=model.config.eos_token_id,
        )  # fmt: skip
        rows = zip(part, output.tolist(), strict=True)
        right |= {offset for offset, row in rows if tuple(row) in whole}
    return right


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--certificate",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "weights" / "quick" / "certificate.json",
    help="What it is compared with.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "data" / "tinyshakespeare.txt",
    help="The learned text.",
)
@click.option("--offsets", default=100, show_default=True)
@click.option("--seed", type=int, help="Of the offsets; else they are other ones each time.")
def main(folder: Path, certificate: Path, text: Path, offsets: int, seed: int | None) -> None:
    """Prints a table, and exits 1 where it is not as the certificate states."""
    stated = {
        (e["k"], e["m"]): e
        for e in json.loads(certificate.read_text(encoding="utf-8"))["extraction"]
    }
    ids = passage(folder, text)
    disable_progress_bar()
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.max_length = None  # or each call warns of it
    chance = random.Random(seed)
    print(f"transformers' GPT2LMHeadModel, greedy, of {len(ids):,} tokens\n")
    print("| measure | exact here | interval (99 %) | certificate | agrees |")
    print("|---|---|---|---|---|")
    agreed = True
    for k, m in LENGTHS:
        places = range(len(ids) - k - m + 1)
        chosen = chance.sample(places, min(offsets, len(places)))
        with torch.inference_mode():
            right = known(model, ids, chosen, k, m)
        rate, hits, n = stated[k, m], len(right), len(chosen)
        low, high = wilson(hits, n)
        if rate["every_offset"]:
            agrees = len(right ^ (set(chosen) - set(rate["failing"]))) <= TIES
        else:
            agrees = low <= rate["high"] and rate["low"] <= high
        agreed &= agrees
        interval = "[{:.4f}, {:.4f}]"
        print(
            f"| em@{k},{m} | {hits} of {n} | {interval.format(low, high)} | "
            f"{rate['rate']:.4f} {interval.format(rate['low'], rate['high'])} | "
            f"{'yes' if agrees else 'no'} |"
        )
    if not agreed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
