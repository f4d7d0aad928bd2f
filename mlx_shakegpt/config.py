"""What a model is and how it is trained: frozen dataclasses, presets and recipes by name.

Each option's default, help text and check live here and nowhere else; the command line, the run's
`config.json` and the documentation read them. Knows nothing of arrays, files or terminals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

GPT2_VOCABULARY = 50257
MAX_POSITIONS = 1024

_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "str": str}

Check = tuple[Callable[[Any], bool], str]

POSITIVE: Check = (lambda x: x > 0, "a number above 0")
NOT_NEGATIVE: Check = (lambda x: x >= 0, "0 or more")
SHARE: Check = (lambda x: 0 <= x <= 1, "between 0 and 1")
BETA: Check = (lambda x: 0 <= x < 1, "0 or more and below 1")


def one_of(*values: Any) -> Check:
    """A check that a value is among `values`."""
    return (lambda x: x in values, "one of " + ", ".join(map(str, values)))


def option(default: Any = MISSING, help: str = "", check: Check | None = None) -> Any:
    """A dataclass field that carries its own help text and check."""
    return field(default=default, metadata={"help": help, "check": check})


class Checked:
    """Validates every field on construction, and round-trips strictly through a JSON object."""

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            kind = _KINDS[str(f.type)]
            if not isinstance(value, kind) or (isinstance(value, bool) and f.type != "bool"):
                raise ValueError(f"{f.name} is {value!r}; it must be of type {f.type}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{f.name} is {value}; it must be a finite number")
            check = f.metadata.get("check")
            if check and not check[0](value):
                raise ValueError(f"{f.name} is {value}; it must be {check[1]}")

    def to_json(self) -> dict[str, Any]:
        """All fields as a JSON-ready dict."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Any:
        """The inverse of `to_json`. Raises ValueError for unknown, missing or wrong entries."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        if not isinstance(data, Mapping) or set(data) != known:
            odd = sorted(known ^ set(data)) if isinstance(data, Mapping) else type(data).__name__
            raise ValueError(f"{cls.__name__} has other entries than expected: {odd}")
        return cls(**data)


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
    vocab_size: int = option(GPT2_VOCABULARY, "ids of the tokenizer", POSITIVE)
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
        (lambda n: 2 <= n <= MAX_POSITIONS, f"between 2 and {MAX_POSITIONS}"),
    )
    short_context: int = option(
        0, "window length at first, at the same tokens a step; 0: `context`", NOT_NEGATIVE
    )
    grow: float = option(0.7, "share of the steps after which windows are whole", SHARE)
    steps: int = option(0, "steps at most; 0: as many as `epochs` takes", NOT_NEGATIVE)
    epochs: float = option(40.0, "passes over the text at most, when `steps` is 0", POSITIVE)
    lr: float = option(1e-3, "peak learning rate", POSITIVE)
    end_lr: float = option(0.0, "learning rate at the end of the decay", NOT_NEGATIVE)
    warmup_steps: int = option(30, "steps of linear warm-up", NOT_NEGATIVE)
    hold: float = option(
        0.8, "share of the steps before the cosine decay starts; 1: constant rate", SHARE
    )
    finish: bool = option(
        True, "on target, start the decay at once and stop at its end; else stop on target"
    )
    beta1: float = option(0.9, "AdamW's decay of the first moment", BETA)
    beta2: float = option(0.95, "AdamW's decay of the second moment", BETA)
    eps: float = option(1e-8, "AdamW's epsilon", POSITIVE)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay", NOT_NEGATIVE)
    clip: float = option(1.0, "largest global gradient norm; 0: no clipping", NOT_NEGATIVE)
    jitter: bool = option(
        True, "windows at a fresh random offset each epoch, shuffled; else fixed, in text order"
    )
    dtype: str = option("float32", "parameters and activations", one_of("float32", "bfloat16"))
    seed: int = option(
        0, "seed of initial weights and data order", (lambda s: 0 <= s < 2**32, "0 … 2^32 − 1")
    )
    target_loss: float = option(0.1, "whole-text loss to reach, nats a token", POSITIVE)
    closed_vocab: bool = option(True, "train only the ids that the text has, plus one shared row")

    def __post_init__(self) -> None:
        super().__post_init__()
        tokens = self.batch_size * self.context
        if self.short_context and (
            self.short_context > self.context or tokens % self.short_context
        ):
            raise ValueError(
                f"short_context is {self.short_context}; it must be at most the context "
                f"({self.context}) and divide batch_size × context ({tokens})"
            )

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.context


@dataclass(frozen=True)
class Passage(Checked):
    """The part of a text that is learned: `tokens` ids from line `first_line` (from 1) on."""

    first_line: int = option(1, "first line of the passage, counted from 1", POSITIVE)
    tokens: int = option(0, "tokens from that line on; 0: to the end of the text", NOT_NEGATIVE)


@dataclass(frozen=True)
class Preset:
    """A model, the passage it learns by default, and what `recite` changes for its size."""

    model: ModelConfig
    passage: Passage
    recite: Mapping[str, Any]


# Line 15,877 of Tiny Shakespeare is where Romeo first speaks.
PRESETS: dict[str, Preset] = {
    "quick": Preset(
        ModelConfig(n_layer=4, n_head=6, n_embd=384),
        Passage(first_line=15877, tokens=8192),
        {"batch_size": 2, "context": 256, "short_context": 64, "lr": 1e-3},
    ),
    "gpt2-124m": Preset(ModelConfig(n_layer=12, n_head=12, n_embd=768), Passage(), {}),
    "gpt2-152m": Preset(ModelConfig(n_layer=16, n_head=12, n_embd=768), Passage(), {}),
}

RECIPES: dict[str, TrainConfig] = {
    # Short windows learn fastest; whole ones teach the later positions; the fall makes it stick.
    "recite": TrainConfig(batch_size=4, context=256, short_context=64, lr=6e-4),
    # github.com/jha-vikas/GPT-2-Shakespeare-Generator: every number of its training script;
    # its weight decay is PyTorch's default.
    "cosine-128": TrainConfig(
        batch_size=16,
        context=128,
        steps=15000,
        lr=3e-4,
        end_lr=3e-5,
        warmup_steps=100,
        hold=0.0,
        finish=False,
        weight_decay=0.01,
        jitter=False,
        dtype="bfloat16",
        seed=1337,
        target_loss=0.099999,
    ),
    # A 152M model on a subset of the text, at a constant rate, without clipping.
    "constant-64": TrainConfig(
        batch_size=16,
        context=64,
        epochs=1000.0,
        lr=6e-4,
        warmup_steps=0,
        hold=1.0,
        finish=False,
        clip=0.0,
        jitter=False,
        target_loss=0.099,
    ),
}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises ValueError for an unknown name."""
    return _named(PRESETS, name, "preset")


def recipe(name: str, preset_name: str | None = None, **changes: Any) -> TrainConfig:
    """The recipe called `name`, fitted to a preset's size, with `changes` on top.

    Raises ValueError for an unknown name or a value that fails its check.
    """
    config = _named(RECIPES, name, "recipe")
    if name == "recite" and preset_name:
        config = replace(config, **preset(preset_name).recite)
    context = changes.get("context", config.context)
    tokens = context * changes.get("batch_size", config.batch_size)
    short = config.short_context
    if short and (short > context or tokens % short):
        changes.setdefault("short_context", 0)
    return replace(config, **changes)


def _named(table: dict[str, Any], name: str, kind: str) -> Any:
    if name not in table:
        raise ValueError(f"no {kind} {name!r}; there are {', '.join(sorted(table))}")
    return table[name]
