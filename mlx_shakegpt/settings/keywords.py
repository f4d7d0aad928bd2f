"""The fields of TrainConfig as keyword arguments, for editors and type checkers."""

from __future__ import annotations

from typing import TypedDict


class TrainSettings(TypedDict, total=False):
    """What TrainConfig's fields may be set to; a test keeps both equal. `TrainConfig` has the
    defaults and what each means."""

    batch_size: int
    context: int
    short_context: int
    grow: float
    steps: int
    epochs: float
    lr: float
    end_lr: float
    warmup_steps: int
    hold: float
    finish: bool
    follow: float
    optimizer: str
    muon_ratio: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip: float
    jitter: bool
    hard: float
    edge_weight: float
    edge_below: float
    dtype: str
    products: str
    seed: int
    target_loss: float
    stop: str
    eval_every: float
    positions: str
    zero_residual: bool
    first_blocks: int
    deepen: float
    logit_gain: float
    closed_vocab: bool
