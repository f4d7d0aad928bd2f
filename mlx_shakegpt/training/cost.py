"""What a training step costs, from the shapes alone. Knows nothing of the machine but its speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.ops.cpu.loss import ROWS
from ..settings.config import ModelConfig, TrainConfig

# Of the speed of a large product, what a step's products get: measured on CPUs (quick 0.6, 124M
# 0.7), published for MLX on Macs (benchmarks/mac.py).
OF_PEAK = {"cpu": 0.62, "gpu": 0.35}
# Passes over a text that the default recipe took until it was known, by its tokens, all by small
# models but for the last (docs/results.md).
EPOCHS_TAKEN = {239: 86, 4_096: 15, 8_192: 11, 50_000: 10, 338_025: 11}
SHALLOW = 0.6  # of its steps, those of a run before blocks joined (docs/experiments.md)
PROGRAM_BYTES = 190_000_000  # Python, MLX and what else is loaded


@dataclass(frozen=True)
class StepCost:
    """`flops` counts matrix products only; `seconds` is how long those take, a lower bound."""

    parameters: int
    tokens: int
    flops: float
    memory_bytes: int
    seconds: float


def product_flops(model: ModelConfig, tokens: int, context: int, rows: int) -> float:
    """Floating-point operations of a step's matrix products, forward and backward.

    A product costs two operations for each of its multiplications, and the backward pass twice the
    forward (Kaplan et al., 2020, section 2.1); the attention's products are counted in full.
    """
    C, L = model.n_embd, model.n_layer
    forward = tokens * (L * (12 * C * C + 2 * context * C) + rows * C) * 2
    return 3.0 * forward


def update_flops(model: ModelConfig, config: TrainConfig, on_cpu: bool) -> float:
    """Floating-point operations of the matrix products of an update: Muon's; AdamW has none.

    As optimizer.orthogonalised makes them, for the six matrices of a block as it takes them apart:
    four square ones and two of 1 : 4. Symmetric products are half of it on a CPU.
    """
    if config.optimizer != "muon":
        return 0.0
    square, long = (20, 37) if on_cpu else (30, 50)  # in C³
    return float(model.n_layer * (4 * square + 2 * long) * model.n_embd**3)


def expected_epochs(tokens: int) -> float:
    """Passes that the default recipe takes over a text of so many tokens, about; from the texts
    next to it in length."""
    lengths, epochs = (np.log(list(column)) for column in zip(*EPOCHS_TAKEN.items(), strict=True))
    return float(np.exp(np.interp(np.log(tokens), lengths, epochs)))


def training_memory(
    model: ModelConfig, config: TrainConfig, rows: int, on_cpu: bool, batch_size: int | None = None
) -> int:
    """Bytes that training takes at its peak, with `rows` rows of the head.

    On a CPU within a tenth of what benchmarks/memory.py measures; on a GPU a guess from the shapes.
    """
    C, L, T = model.n_embd, model.n_layer, config.context
    tokens = (batch_size or config.batch_size) * T
    trained = model.n_parameters - (model.vocab_size - rows) * C
    ahead = 0
    if on_cpu:
        # Of each block some 12 C values and half its scores; logits and exponentials of some rows.
        kept = tokens * L * (12 * C + model.n_head * T // 2) + 2 * ROWS * rows
        # MLX allocates the results of ten operations ahead, in pieces that do not fill the gaps;
        # they are gone when the last gradients come.
        ahead = max(0, 60 * tokens * C - trained)
    else:
        # About 34 C values a block, as MLX's own operations keep their inputs, and the softmax of
        # the scores, as attention is only fused where no gradient is asked for.
        kept = tokens * (L * (34 * C + model.n_head * T) + 3 * rows)
    low = config.dtype == "bfloat16" and not on_cpu
    # Weights, gradients and two moments, of which Muon has one; in bf16 the first two are half as
    # large, beside masters.
    held = 16 * trained - (4 * L * 12 * C * C if config.optimizer == "muon" else 0)
    return held + kept * (2 if low else 4) + 4 * ahead + PROGRAM_BYTES


def must_fit(
    model: ModelConfig,
    config: TrainConfig,
    rows: int,
    on_cpu: bool,
    free: int,
    ranks: int = 1,
    resumed: bool = False,
) -> None:
    """Raises ValueError where training takes more than `free` bytes in each of so many ranks, with
    what would fit; a run that is `resumed` keeps its batches."""
    size = -(-config.batch_size // ranks)
    need = training_memory(model, config, rows, on_cpu, size)
    if need <= free:
        return
    while size > 1 and training_memory(model, config, rows, on_cpu, size) > free:
        size //= 2
    least = training_memory(model, config, rows, on_cpu, size)
    way = f"use `batch_size` {size * ranks} ({least / 1e9:.1f} GB)"
    if resumed:
        way = f"close other programs, or start another `run` with {way.removeprefix('use ')}"
    if least > free:
        way = "close other programs, or train a smaller `preset`"
    raise ValueError(
        f"training takes about {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; "
        + way
    )


def step(
    model: ModelConfig,
    config: TrainConfig,
    gflops: float,
    rows: int,
    on_cpu: bool,
    update_gflops: float | None = None,
) -> StepCost:
    """The cost of one step, with `rows` rows of the head; the products of an update, which are
    float32 on a GPU, may have a speed of their own."""
    tokens = config.tokens_per_step
    flops = product_flops(model, tokens, config.context, rows)
    update = update_flops(model, config, on_cpu)
    return StepCost(
        parameters=model.n_parameters,
        tokens=tokens,
        flops=flops + update,
        memory_bytes=training_memory(model, config, rows, on_cpu),
        seconds=(flops / gflops + update / (update_gflops or gflops)) / 1e9,
    )
