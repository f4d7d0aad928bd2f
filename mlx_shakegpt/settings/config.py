"""What a model is, how it is trained and how it is verified: frozen dataclasses.

Each option's default, help text and check live here and nowhere else; the command line, the run's
`config.json` and the documentation read them. Knows nothing of arrays, files or terminals.
"""

from __future__ import annotations

from dataclasses import dataclass

from .fields import BETA, NOT_NEGATIVE, POSITIVE, SEED, SHARE, Check, Checked, option

GPT2_VOCAB_SIZE = 50257
MAX_POSITIONS = 1024
LEAST_CONTEXT = 2
EPOCHS: Check = (lambda n: 0 < n <= 1e6, "above 0, and at most 1,000,000")


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The shape of a GPT-2 (Radford et al., 2019), in Hugging Face's names."""

    n_layer: int = option(help="number of transformer blocks", check=POSITIVE)
    n_head: int = option(help="attention heads in a block", check=POSITIVE)
    n_embd: int = option(help="width of the residual stream", check=POSITIVE)
    n_positions: int = option(
        MAX_POSITIONS,
        "rows of the position table, the longest context",
        (lambda n: 1 <= n <= MAX_POSITIONS, f"between 1 and {MAX_POSITIONS}"),
    )
    vocab_size: int = option(GPT2_VOCAB_SIZE, "ids of the tokenizer", POSITIVE)
    layer_norm_epsilon: float = option(1e-5, "added to the variance in LayerNorm", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd is {self.n_embd}; it must be a multiple of n_head, {self.n_head}"
            )

    @property
    def n_parameters(self) -> int:
        """Parameters with the full vocabulary; the head is tied to `wte` and counted once."""
        C = self.n_embd
        block = 12 * C * C + 13 * C  # c_attn, c_proj, c_fc, c_proj with biases; two LayerNorms
        return (self.vocab_size + self.n_positions) * C + self.n_layer * block + 2 * C


@dataclass(frozen=True)
class TrainConfig(Checked):
    """Everything that decides the losses of a run, besides the model's shape and the text."""

    batch_size: int = option(16, "windows in a step, at the full context", POSITIVE)
    context: int = option(
        128,
        "tokens in a window",
        (
            lambda n: LEAST_CONTEXT <= n <= MAX_POSITIONS,
            f"between {LEAST_CONTEXT} and {MAX_POSITIONS}",
        ),
    )
    short_context: int = option(
        0,
        "initial window length, with as many tokens a step; 0: `context`",
        (lambda n: n == 0 or n >= LEAST_CONTEXT, f"0, or {LEAST_CONTEXT} or more"),
    )
    grow: float = option(
        0.7, "share of the steps after which windows have their full length", SHARE
    )
    steps: int = option(0, "maximum number of steps; 0: as many as `epochs` takes", NOT_NEGATIVE)
    epochs: float = option(40.0, "maximum passes over the text, when `steps` is 0", EPOCHS)
    lr: float = option(1e-3, "peak learning rate of AdamW; `muon_ratio` gives Muon's", POSITIVE)
    end_lr: float = option(0.0, "learning rate at the end of the decay", NOT_NEGATIVE)
    warmup_steps: int = option(30, "steps of linear warm-up", NOT_NEGATIVE)
    hold: float = option(
        0.8, "share of the steps before the cosine decay starts; 1: constant rate", SHARE
    )
    finish: bool = option(
        True,
        "when the loss reaches the target, begin the decay that `hold` leaves; or, unless `stop` "
        "is known, stop at once",
        opposite="stop-on-target",
    )
    follow: float = option(
        0.0,
        "loss, in nats, below which the rate falls in proportion to the loss; 0: off",
        NOT_NEGATIVE,
    )
    optimizer: str = option(
        "adamw",
        "optimiser; muon: Muon for the blocks' matrices, AdamW for the rest",
        choices=("adamw", "muon"),
    )
    muon_ratio: float = option(
        0.2, "Muon's rate, in units of AdamW's times the root of the width", POSITIVE
    )
    beta1: float = option(0.9, "AdamW's decay of the first moment", BETA)
    beta2: float = option(0.95, "AdamW's decay of the second moment", BETA)
    eps: float = option(1e-8, "AdamW's epsilon", POSITIVE)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay", NOT_NEGATIVE)
    clip: float = option(1.0, "largest global gradient norm; 0: no clipping", NOT_NEGATIVE)
    jitter: bool = option(
        True,
        "shuffle windows at a new random offset each epoch, or keep them fixed, in text order",
        opposite="fixed-windows",
    )
    hard: float = option(
        0.0, "with jitter: share of the windows placed around tokens with a high loss", SHARE
    )
    edge_weight: float = option(
        1.0,
        "weight of a window's first 12 targets (at most half of them), which lack context, once "
        "the smoothed loss is below `edge_below`",
        (lambda x: 0 < x <= 1, "above 0, and at most 1"),
    )
    edge_below: float = option(
        0.3, "smoothed loss, in nats, below which `edge_weight` applies", POSITIVE
    )
    dtype: str = option(
        "float32", "precision of parameters and activations", choices=("float32", "bfloat16")
    )
    products: str = option(
        "float32",
        "precision to which training rounds the operands of large float32 products; bfloat16 is "
        "faster on CPUs with AVX512-BF16",
        choices=("float32", "bfloat16"),
    )
    seed: int = option(0, "seed of initial weights and data order", SEED)
    target_loss: float = option(0.1, "whole-text loss to reach, nats a token", POSITIVE)
    stop: str = option(
        "text",
        "when the run ends; known: as soon as the text is known by heart, and not before; text: "
        "when its loss is below the target; batch: at the first batch below it, which proves "
        "nothing",
        choices=("known", "text", "batch"),
    )
    eval_every: float = option(1.0, "epochs between evaluations", EPOCHS)
    positions: str = option(
        "learned",
        "position table; look-back: fixed, and the heads of the first blocks begin by attending "
        "1, 2, 3, … tokens back",
        choices=("learned", "sinusoid", "look-back"),
    )
    zero_residual: bool = option(
        False, "start residual projections at zero, or scaled as in GPT-2",
        opposite="scaled-residual",
    )  # fmt: skip
    first_blocks: int = option(
        0,
        "number of blocks trained first; the others start as the identity and join below "
        "`deepen`; 0: all",
        NOT_NEGATIVE,
    )
    deepen: float = option(
        0.5, "loss, in nats, below which the blocks after `first_blocks` join", POSITIVE
    )
    logit_gain: float = option(
        1.0, "initial gain of the last LayerNorm, which scales the logits", POSITIVE
    )
    closed_vocab: bool = option(
        True, "train embeddings of the text's ids, with one row for all others, or of every id",
        opposite="full-vocab",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hard and not self.jitter:
            raise ValueError(
                f"`hard` is {self.hard}; only with `jitter` can windows be moved: set `hard` 0"
            )
        if self.edge_weight < 1 and not self.jitter:
            raise ValueError(
                f"`edge_weight` is {self.edge_weight}; only with `jitter` does a window's first "
                "target come further back in others: set `edge_weight` 1"
            )
        if self.first_blocks and not self.zero_residual:
            raise ValueError(
                f"`first_blocks` is {self.first_blocks}; only with `zero_residual` do the other "
                "blocks begin as the identity: set `first_blocks` 0"
            )
        if self.weight_decay and self.optimizer == "muon":
            raise ValueError(
                f"`weight_decay` is {self.weight_decay}; with muon it must be 0, or use adamw"
            )
        tokens = self.batch_size * self.context
        if self.short_context and (
            self.short_context > self.context or tokens % self.short_context
        ):
            raise ValueError(
                f"`short_context` is {self.short_context}; it must be at most `context` "
                f"({self.context}) and divide `batch_size` × `context` ({tokens})"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context


RUN_LENGTH = {"epochs", "steps"}  # of TrainConfig, what a run may have more of later


@dataclass(frozen=True)
class Passage(Checked):
    """The part of a text that is learned: `tokens` ids from line `first_line` (from 1) on."""

    first_line: int = option(1, "first line of the passage, counted from 1", POSITIVE)
    tokens: int = option(0, "tokens from that line on; 0: to the end of the text", NOT_NEGATIVE)


CONTROL_RATE = 0.05  # a control that is extracted at a higher rate has passed, which it must not


@dataclass(frozen=True)
class VerifyConfig(Checked):
    """What a verification measures and asks for."""

    require: float = option(
        0.99,
        "smallest extraction rate to certify",
        (lambda r: CONTROL_RATE < r <= 1, f"above {CONTROL_RATE:g}, and at most 1"),
    )
    samples: int = option(
        1000, "offsets to measure if there are more than `all_up_to`; 0: all", NOT_NEGATIVE
    )
    all_up_to: int = option(
        4096, "measure every offset of a text that has at most this many", NOT_NEGATIVE
    )
