"""What a training step costs, from the shapes alone. Knows nothing of the machine but its speed."""

from __future__ import annotations

from dataclasses import dataclass

from .config import ModelConfig, TrainConfig


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


def step(
    model: ModelConfig, config: TrainConfig, gflops: float, rows: int | None = None
) -> StepCost:
    """The cost of one step; `rows` of the head are those of the whole vocabulary if not given."""
    rows = rows or model.vocab_size
    tokens, context = config.tokens_per_step, config.context
    C = model.n_embd
    trained = model.n_parameters - (model.vocab_size - rows) * C
    low = config.dtype == "bfloat16"
    # Weights, gradients, two moments in fp32; with bf16 weights the fp32 master beside them.
    per_parameter = 2 + 2 + 12 if low else 16
    # Kept for the backward pass in each block: about 34 C values and 2 score matrices a head.
    kept = tokens * (model.n_layer * (34 * C + 2 * model.n_head * context) + 3 * rows)
    flops = product_flops(model, tokens, context, rows)
    return StepCost(
        parameters=model.n_parameters,
        tokens=tokens,
        flops=flops,
        memory_bytes=trained * per_parameter + kept * (2 if low else 4),
        seconds=flops / gflops / 1e9,
    )
