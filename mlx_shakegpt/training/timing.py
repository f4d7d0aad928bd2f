"""Measures a training step, generation and a matrix product on this machine.

Knows nothing of terminals; `cli bench` and the scripts in benchmarks/ print what it returns.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import mlx.core as mx

from .. import runtime
from ..generation import decoding
from ..generation.lookup import Lookup
from ..model.language_model import LanguageModel
from ..settings.config import TrainConfig
from ..settings.presets import Preset
from ..text.corpus import Corpus
from . import cost
from .step import Step
from .trainer import Trainer

SPOKEN_TOKENS = 48


@dataclass(frozen=True)
class Bench:
    """The figures of `cli bench --json`; times are medians, in seconds."""

    train: dict[str, float]
    generate: dict[str, float]
    matmul_gflops: float
    peak_bytes: int


def bench(preset: Preset, config: TrainConfig, repeats: int) -> Bench:
    """Times `repeats` training steps of a preset after two of warm-up, and greedy generation."""
    corpus = Corpus.load(None, preset.passage)
    trainer = Trainer(preset.model, config, corpus.ids, lambda *_: None)  # type: ignore[arg-type]
    step = Step(trainer.model, trainer.optimizer, config.clip, trainer.absent)
    times, speeds = [], []
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
    peak = mx.get_peak_memory()
    seconds, gflops = statistics.median(times), max(speeds)
    B, T = batches[0].inputs.shape
    rows = trainer.model.wte.weight.shape[0]
    flops = cost.product_flops(preset.model, B * T, T, rows)
    flops += cost.update_flops(preset.model, config, not runtime.on_gpu())
    language_model = LanguageModel(trainer.model, trainer.vocabulary, preset.model.n_positions)
    prompt = corpus.ids[:16].tolist()
    list(decoding.stream(language_model, prompt, 4))
    start = time.perf_counter()
    made = list(decoding.stream(language_model, prompt, SPOKEN_TOKENS))
    spoken = SPOKEN_TOKENS / (time.perf_counter() - start)
    # What a model knows by heart is what it would say: so its own words are the text to look up.
    lookup = Lookup([*prompt, *made])
    start = time.perf_counter()
    list(decoding.stream(language_model, prompt, SPOKEN_TOKENS, lookup=lookup))
    known = SPOKEN_TOKENS / (time.perf_counter() - start)
    return Bench(
        train={
            "batch_size": B,
            "context": T,
            "seconds": seconds,
            "tokens_per_second": B * T / seconds,
            "share_of_peak": flops / seconds / 1e9 / gflops,
        },
        generate={
            "tokens_per_second": spoken,
            "known_tokens_per_second": known,
            "accepted": lookup.accepted / max(1, lookup.proposed),
        },
        matmul_gflops=gflops,
        peak_bytes=peak,
    )
