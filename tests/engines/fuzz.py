"""Feeds damaged files to everything that reads one, and counts what happens.

    python tests/engines/fuzz.py [--inputs 100000] [--seed 0]

Sound files of each kind are damaged at random: bytes changed, cut, repeated or put in; numbers,
names and types in their JSON replaced by absurd ones. A reader must take a file or refuse it with a
ValueError or OSError of one line; it must not crash, hang, raise anything else, or take more memory
than the file can hold.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import common

from mlx_shakegpt.sharing import markdown

SLOW = 5.0  # seconds of computing for one file of some kilobytes
MEMORY = 100_000_000  # bytes that reading thousands of them may add
ABSURD = (
    0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 1.5, 1e308, True, None, "", "0", "F32",
    "../../etc/passwd", "/dev/zero", "\x00", [], [0], [-1], [2**62, 4], {}, {"": {}},
    [[[[]]]], "🎭" * 50,
)  # fmt: skip


class Reader:
    """A sound file, by its name in a folder, and what reads the folder."""

    def __init__(self, name: str, folder: Path, file: str, read: Callable[[Path], object]) -> None:
        self.name, self.folder, self.file, self.read = name, folder, folder / file, read
        self.sound = self.file.read_bytes()
        read(folder)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed in one to four places."""
    made = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(made) + 1)
        match chance.randrange(5):
            case 0 if place < len(made):
                made[place] = chance.randrange(256)
            case 1:
                del made[place:]
            case 2:
                made[place:place] = chance.randbytes(chance.randint(1, 16))
            case 3:
                del made[place : place + chance.randint(1, 64)]
            case _:
                made[place:place] = made[: chance.randint(0, 256)]
    return bytes(made)


def absurd(value: object, chance: random.Random) -> object:
    """A JSON value with one of its parts, or itself, replaced, renamed or removed."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        match chance.randrange(8):
            case 0:
                return rest
            case 1:
                return rest | {f"{key}x": value[key]}
            case _:
                return value | {key: absurd(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.9:
        index = chance.randrange(len(value))
        return [absurd(v, chance) if i == index else v for i, v in enumerate(value)]
    return chance.choice(ABSURD)


def variant(content: bytes, file: Path, chance: random.Random) -> bytes:
    """A damaged version of a file, in most cases still of its kind."""
    if chance.random() < 0.3:
        return damaged(content, chance)
    if file.suffix not in (".json", ".safetensors"):
        return damaged(content, chance)
    if file.suffix == ".json":
        return json.dumps(absurd(json.loads(content), chance)).encode()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(absurd(json.loads(content[8 : 8 + length]), chance)).encode()
    claimed = chance.choice((len(header), len(header), len(header), length, 2**40, 2**63))
    return claimed.to_bytes(8, "little") + header + content[8 + length :]


def rate(length: int, hits: int) -> dict[str, object]:
    """A stated rate of `hits` of 100 offsets."""
    from mlx_shakegpt.verification.extraction import wilson

    low, high = wilson(hits, 100)
    size = {"k": length, "m": length, "offsets": 100, "every_offset": False}
    return size | {"rate": hits / 100, "low": low, "high": high, "text_offsets": 800}


def followed(own: Path, saved: Path, text: str) -> list[Reader]:
    """Readers that repeat or follow a run, of its newest checkpoint and its text's hash."""
    from mlx_shakegpt.run import METRICS
    from mlx_shakegpt.run.checkpoint_progress import newest_progress
    from mlx_shakegpt.run.metrics_file import read_metrics
    from mlx_shakegpt.run.settings_file import TOML, read_settings
    from mlx_shakegpt.run.shown_certificate import ShownCertificate
    from mlx_shakegpt.run.token_loss_file import TOKEN_LOSSES, read_token_losses
    from mlx_shakegpt.training.checkpoint import STATE

    def losses(path: Path) -> None:
        read_token_losses(path / TOKEN_LOSSES)

    def shown(path: Path) -> None:
        ShownCertificate(path).of_text(text)

    return [
        Reader("settings to repeat", own, TOML, lambda path: read_settings(path / TOML)),
        Reader("metrics", own, METRICS, lambda path: read_metrics(path / METRICS)),
        Reader("token losses", own, TOKEN_LOSSES, losses),
        Reader("checkpoint, as followed", saved, STATE, lambda _: newest_progress(own, None)),
        Reader("certificate, as shown", own, "certificate.json", shown),
    ]


def readers(folder: Path) -> list[Reader]:
    """Everything in the program that reads a file which somebody else may have made."""
    from mlx_shakegpt.files import home
    from mlx_shakegpt.run import Run, RunPlan, of_run, read_config
    from mlx_shakegpt.runtime import setup
    from mlx_shakegpt.settings.config import ModelConfig, Passage, TrainConfig, VerifyConfig
    from mlx_shakegpt.sharing.export import export
    from mlx_shakegpt.text.corpus import Corpus
    from mlx_shakegpt.training import checkpoint
    from mlx_shakegpt.verification import certificates, comparison
    from mlx_shakegpt.weights import model_from_hf, model_from_run
    from mlx_shakegpt.weights.safetensors import load_tensors

    text = folder / "text.txt"
    text.write_bytes(b"To be, or not to be, that is the question:\n" * 20)
    model = ModelConfig(n_layer=1, n_head=1, n_embd=32, n_positions=32)
    config = TrainConfig(batch_size=1, context=16, steps=2, hard=0.5)
    corpus = Corpus.load(text, Passage())
    path = home() / "weights" / "fuzzed"
    run = Run(RunPlan(path, "quick", "recite", model, config, corpus))
    run.create(setup())
    for _ in run.train(1):
        pass
    run.close()
    own = run.path
    language_model = model_from_run(own / checkpoint.MODEL, model)
    export(language_model, folder / "plain", text=corpus.description)
    export(language_model, folder / "small", bits=4)
    for name in ("plain", "small"):  # megabytes, whose reading is the same for all inputs
        for tokenizer in ("vocab.json", "tokenizer.json"):
            (folder / name / tokenizer).unlink()
    shutil.copytree(folder / "plain", folder / "shards")
    (folder / "shards" / "model.safetensors").rename(folder / "shards" / "model-1.safetensors")
    index = {"metadata": {}, "weight_map": {"wte.weight": "model-1.safetensors"}}
    (folder / "shards" / "model.safetensors.index.json").write_text(
        json.dumps(index), encoding="utf-8"
    )
    figures = {
        "nll": 0.1, "accuracy": 0.9, "certified": False,
        "require": 0.99, "reasons": ["it was made by hand"],
        "extraction": [rate(32, 50), rate(50, 40)],
    }  # fmt: skip
    weights = of_run("fuzzed").hashed()
    paper = certificates.make_certificate(
        language_model, "fuzzed", weights, corpus.description, VerifyConfig(), setup(), figures
    )
    for place in (folder / "paper", own):
        certificates.write(place / "certificate.json", paper)
    saved = checkpoint.newest(own / "checkpoints")[0]
    assert saved is not None

    def tensors(path: Path) -> None:
        held = sum(value.nbytes for value in load_tensors(path / checkpoint.MODEL).values())
        assert held <= (path / checkpoint.MODEL).stat().st_size

    def certificate_text(path: Path) -> None:
        content = certificates.read(path / "certificate.json")
        certificates.passage_of(content)
        comparison.compare(content, paper)

    def own_weights(path: Path) -> None:
        model_from_run(path / checkpoint.MODEL, model)

    def exported(path: Path) -> None:
        read = model_from_hf(path)
        read.gpt.checked_ids(read.rows_of([0, read.gpt.config.vocab_size - 1]))
        config = read.gpt.config
        assert read.gpt.wte.weight.shape == (config.vocab_size, config.n_embd)

    return [
        *followed(own, saved, corpus.description["sha256"]),
        Reader("safetensors", own, checkpoint.MODEL, tensors),
        Reader("run's weights", own, checkpoint.MODEL, own_weights),
        Reader("run's settings", own, "config.json", read_config),
        Reader("checkpoint's state", saved, checkpoint.STATE, checkpoint.check),
        Reader("checkpoint's tensors", saved, checkpoint.ORDER, checkpoint.check),
        Reader("certificate", folder / "paper", "certificate.json", certificate_text),
        Reader("folder's settings", folder / "plain", "config.json", exported),
        Reader("folder's weights", folder / "plain", "model.safetensors", exported),
        Reader("index of shards", folder / "shards", "model.safetensors.index.json", exported),
        Reader("quantised settings", folder / "small", "config.json", exported),
        Reader("quantised weights", folder / "small", "model.safetensors", exported),
    ]  # fmt: skip


def fuzz(folder: Path, inputs: int, seed: int) -> dict[str, Counter]:
    """Reads `inputs` damaged files; by reader, how many were taken and refused, and the bytes by
    which the process's peak of memory rose.

    Raises AssertionError with the file's place where a reader fails.
    """
    from mlx_shakegpt.runtime import peak_bytes

    chance = random.Random(seed)
    made = readers(folder)
    with suppress(OSError):  # where Linux lets a process forget what it needed before
        Path("/proc/self/clear_refs").write_text("5")
    counts: dict[str, Counter] = {reader.name: Counter() for reader in made}
    before = peak = peak_bytes()
    largest = (0, "", 0)  # bytes that the peak rose by, with which reader and input
    for number in range(inputs):
        reader = made[number % len(made)]
        reader.file.write_bytes(variant(reader.sound, reader.file, chance))
        start = time.process_time()
        try:
            reader.read(reader.folder)
            counts[reader.name]["taken"] += 1
        except (ValueError, OSError) as error:
            if isinstance(error, UnicodeError) or not str(error):
                raise AssertionError(f"{reader.name}, input {number}: {error!r}") from error
            counts[reader.name]["refused"] += 1
        except BaseException as error:
            kept = folder / f"failing-{number}{reader.file.suffix}"
            shutil.copyfile(reader.file, kept)
            raise AssertionError(f"{reader.name}, input {number}: {error!r}") from error
        took = time.process_time() - start
        assert took < SLOW, f"{reader.name}, input {number}: {took:.1f} s"
        reader.file.write_bytes(reader.sound)
        rise, peak = peak_bytes() - peak, peak_bytes()
        counts[reader.name]["bytes"] += rise
        largest = max(largest, (rise, reader.name, number))
    rise, name, number = largest
    assert peak - before < MEMORY, (
        f"reading took {(peak - before) / 1e6:.0f} MB more, {rise / 1e6:.0f} of them at once with "
        f"{name}, input {number}; by reader { {n: c['bytes'] for n, c in counts.items()} }"
    )
    return counts


@click.command()
@click.option("--inputs", default=100_000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(inputs: int, seed: int) -> None:
    from mlx_shakegpt import runtime
    from mlx_shakegpt.text import tokenizer

    tokenizer.gpt2()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(common.ROOT / "data", folder / "data")
        os.environ["SHAKEGPT_HOME"] = str(folder)
        runtime.setup()
        counts = fuzz(folder, inputs, seed)
    rows = [
        [
            name,
            f"{c['taken'] + c['refused']:,}",
            f"{c['taken']:,}",
            f"{c['refused']:,}",
            f"{c['bytes'] / 1e6:.0f}",
        ]
        for name, c in counts.items()
    ]
    click.echo(markdown.table(["reader", "inputs", "accepted", "refused", "MB more"], rows))
    click.echo(f"\n{inputs:,} inputs, no crash and no other error. {common.machine()}")


if __name__ == "__main__":
    main()
