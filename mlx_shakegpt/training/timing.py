"""Measures a training step, generation and a matrix product on this machine.

Knows nothing of terminals; `cli bench` prints what it returns.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from .. import runtime
from ..generation import decoding
from ..generation.lookup import Lookup
from ..model.language_model import LanguageModel
from ..runtime.stopwatch import seconds_of
from ..settings.config import TrainConfig
from ..settings.presets import Preset
from ..text.corpus import Corpus
from . import cost
from .trainer import Trainer

SPOKEN_TOKENS = 48


@dataclass(frozen=True)
class Bench:
    """The figures of `cli bench --json`; times are medians, on a GPU means, in seconds."""

    train: dict[str, float]
    generate: dict[str, float]
    matmul_gflops: float
    peak_bytes: int


def bench(preset: Preset, config: TrainConfig, repeats: int) -> Bench:
    """Times `repeats` training steps of all of a preset's blocks after two of warm-up, and greedy
    generation."""
    corpus = Corpus.load(None, preset.passage)
    trainer = Trainer(preset.model, config, corpus.ids, lambda *_: None)  # type: ignore[arg-type]
    step = trainer.compiled_step(len(trainer.model.h))
    times, speeds, shares = [], [], []
    flops = step_flops(trainer, trainer.context(0))
    batches = [trainer.batch(i) for i in range(repeats + 2)]
    for batch in batches[:2]:
        mx.eval(*step(batch, config.lr))
    mx.reset_peak_memory()
    for group in [batches[2:]] if runtime.on_gpu() else [[batch] for batch in batches[2:]]:
        # The speed of products right beside each step: a shared machine changes by the minute.
        speeds.append(runtime.matmul_gflops(2, getattr(mx, config.dtype)))
        start = time.perf_counter()
        # On a GPU steps are started ahead, as in training, and waited for together.
        mx.eval(*[step(batch, config.lr).loss for batch in group])
        times.append((time.perf_counter() - start) / len(group))
        shares.append(flops / times[-1] / 1e9 / speeds[-1])
    peak = mx.get_peak_memory()
    seconds = statistics.median(times)
    B, T = batches[0].inputs.shape
    generate = generation_speed(trainer, corpus.ids[:16].tolist())
    return Bench(
        train={
            "batch_size": B,
            "context": T,
            "seconds": seconds,
            "tokens_per_second": B * T / seconds,
            "share_of_peak": statistics.median(shares),
        },
        generate=generate,
        matmul_gflops=statistics.median(speeds),
        peak_bytes=peak,
    )


def step_flops(trainer: Trainer, context: int) -> float:
    """Floating-point operations of the matrix products of a step, with windows of `context`."""
    model, config, rows = trainer.model.config, trainer.config, trainer.model.wte.weight.shape[0]
    flops = cost.product_flops(model, config.tokens_per_step, context, rows)
    return flops + cost.update_flops(model, config, not runtime.on_gpu())


def generation_speed(trainer: Trainer, prompt: list[int]) -> dict[str, float]:
    """Tokens a second that a trainer's model speaks greedily after a prompt, and with guesses from
    a text that it knows by heart; the share of those that were right."""
    model = trainer.model
    language_model = LanguageModel(model, trainer.vocabulary, model.config.n_positions)
    list(decoding.stream(language_model, prompt, 4))
    start = time.perf_counter()
    made = list(decoding.stream(language_model, prompt, SPOKEN_TOKENS))
    plain = len(made) / (time.perf_counter() - start)
    # What a model knows by heart is what it would say: so its own words are the text to look up.
    lookup = Lookup([*prompt, *made])
    start = time.perf_counter()
    again = list(decoding.stream(language_model, prompt, SPOKEN_TOKENS, lookup=lookup))
    known = len(again) / (time.perf_counter() - start)
    return {
        "tokens_per_second": plain,
        "known_tokens_per_second": known,
        "accepted": lookup.accepted / max(1, lookup.proposed),
    }


def steps(trainer: Trainer, seconds: float, most: int = 5) -> dict[str, Any]:
    """Times training steps for about so many seconds: the `first_seconds` of one that compiles,
    then the `seconds` of each; whether loss and norm stay `finite`, and the `peak_bytes`."""
    step = trainer.compiled_step(len(trainer.model.h))
    mx.reset_peak_memory()

    def one(number: int) -> float:
        return seconds_of(lambda: (step(trainer.batch(number), 1e-4), step.state))

    first, second = one(0), one(1)
    count = max(1, min(most, int((seconds - first) / second)))
    batches = [trainer.batch(i + 2) for i in range(count)]
    start = time.perf_counter()
    results = [step(batch, 1e-4) for batch in batches]  # on a GPU started ahead, as in training
    mx.eval([result.loss for result in results], step.state)
    each = (time.perf_counter() - start) / count
    numbers = np.array([[float(r.loss), float(r.norm)] for r in results])
    return {
        "steps": count,
        "first_seconds": first,
        "seconds": each,
        "tokens_per_second": batches[0].inputs.size / each,
        "finite": bool(np.isfinite(numbers).all()),
        "peak_bytes": mx.get_peak_memory(),
    }
