"""Models and passages, and ways to train them, by name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .config import ModelConfig, Passage, TrainConfig


@dataclass(frozen=True)
class Preset:
    """A model, the passage it learns by default, and what `recite` changes for its size; `dtype` is
    its precision where that is not the device's."""

    model: ModelConfig
    passage: Passage
    recite: Mapping[str, Any]
    dtype: str | None = None


# A state that is a row of `wte` gives it a logit that grows with the width: at half the width a
# gain of 3 was best. The first blocks learn most of a text, and cost less than all of them.
_LARGE = {"logit_gain": 1.5, "first_blocks": 4, "deepen": 0.3}

# Line 15,877 of Tiny Shakespeare is where Romeo first speaks.
PRESETS: dict[str, Preset] = {
    "quick": Preset(
        ModelConfig(n_layer=4, n_head=5, n_embd=320),
        Passage(first_line=15877, tokens=4096),
        {},
        # On a GPU its steps are bound by launches, not by products, and float32 was certified.
        dtype="float32",
    ),
    "gpt2-124m": Preset(ModelConfig(n_layer=12, n_head=12, n_embd=768), Passage(), _LARGE),
    "gpt2-152m": Preset(ModelConfig(n_layer=16, n_head=12, n_embd=768), Passage(), _LARGE),
    # The larger sizes of GPT-2 (Radford et al., 2019, table 2), with rates that fall with the width
    # (Yang et al., 2022); nobody has trained them so.
    "gpt2-medium": Preset(
        ModelConfig(n_layer=24, n_head=16, n_embd=1024), Passage(), _LARGE | {"lr": 7.5e-4}
    ),
    "gpt2-large": Preset(
        ModelConfig(n_layer=36, n_head=20, n_embd=1280), Passage(), _LARGE | {"lr": 6e-4}
    ),
    "gpt2-xl": Preset(
        ModelConfig(n_layer=48, n_head=25, n_embd=1600), Passage(), _LARGE | {"lr": 4.8e-4}
    ),
}

AUTO = "auto"  # the preset that the machine chooses
DEFAULT_RECIPE = "recite"
SHORT_TEXT_STEPS = 600  # that a short text is given, where its epochs are fewer
# Steps an epoch, about, for texts that allow it: with fewer, steps are what is short; with more,
# they are small.
STEPS_AN_EPOCH, MOST_TOKENS_A_STEP = 48, 4096

RECIPES: dict[str, TrainConfig] = {
    # Muon and heads that begin by looking back learn a text in a third of the exposures; the rate
    # falls with the loss, so that no length need be planned. Few tokens a step want a slower second
    # moment (Marek et al., 2025).
    DEFAULT_RECIPE: TrainConfig(
        batch_size=4,
        context=128,
        epochs=30.0,
        lr=1e-3,
        hold=1.0,
        finish=False,
        follow=1.0,
        optimizer="muon",
        muon_ratio=0.1,
        beta2=0.99,
        hard=0.65,
        edge_weight=0.1,
        stop="known",
        positions="look-back",
        zero_residual=True,
        logit_gain=3.0,
    ),
    # github.com/jha-vikas/GPT-2-Shakespeare-Generator: every number of its training script
    # but for bfloat16, which the device decides; its weight decay is PyTorch's default.
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
        seed=1337,
        target_loss=0.099999,
        stop="batch",
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
        stop="batch",
    ),
}


def default_preset(device: str) -> str:
    """The name of the preset that suits a "cpu" or a "gpu"."""
    return "gpt2-124m" if device == "gpu" else "quick"


def preset(name: str) -> Preset:
    """The preset called `name`. Raises ValueError for an unknown name."""
    return _named(PRESETS, name, "preset", AUTO)


def dtype_of(name: str, default: str) -> str:
    """The precision of a preset, or of another name, on a device whose own is `default`."""
    return (name in PRESETS and PRESETS[name].dtype) or default


def preset_like(model: ModelConfig) -> str | None:
    """The name of the preset with a model's shape, if there is one."""
    return next((name for name, known in PRESETS.items() if known.model == model), None)


def recipe(name: str, preset_name: str | None = None, **changes: Any) -> TrainConfig:
    """The recipe called `name`, fitted to a preset's size, with `changes` on top.

    Raises ValueError for an unknown name or a value that fails its check.
    """
    config = _named(RECIPES, name, "recipe")
    if name == DEFAULT_RECIPE and preset_name:
        config = replace(config, **preset(preset_name).recite)
    if "epochs" in changes:
        changes.setdefault("steps", 0)
    if not changes.get("zero_residual", True):
        changes.setdefault("first_blocks", 0)
    if not changes.get("jitter", True):  # windows stand where they are
        changes = {"hard": 0.0, "edge_weight": 1.0} | changes
    context = changes.get("context", config.context)
    tokens = context * changes.get("batch_size", config.batch_size)
    short = config.short_context
    if short and (short > context or tokens % short):
        changes.setdefault("short_context", 0)
    return replace(config, **changes)


def fit_to_text(config: TrainConfig, tokens: int, chosen: Collection[str]) -> TrainConfig:
    """`config` for a text of so many tokens: where neither context nor number of steps was chosen,
    a short text gets windows that it has, and epochs for SHORT_TEXT_STEPS steps at most; where
    neither context nor batch was chosen, a long one gets larger batches.
    """
    changes: dict[str, Any] = {}
    windows = {"context", "short_context"}
    fitting = 1 << max(tokens - 1, 1).bit_length() - 1  # a window needs one more token
    if not windows & set(chosen) and 2 <= fitting < config.context:
        changes |= {"context": fitting, "short_context": min(config.short_context, fitting)}
    if not (windows | {"batch_size"}) & set(chosen):
        most = min(tokens // STEPS_AN_EPOCH, MOST_TOKENS_A_STEP)
        while 2 * config.tokens_per_step <= most:
            config = replace(config, batch_size=2 * config.batch_size)
    config = replace(config, **changes)
    epochs = math.ceil(SHORT_TEXT_STEPS * config.tokens_per_step / tokens)
    if not {"epochs", "steps"} & set(chosen) and epochs > config.epochs:
        config = replace(config, epochs=float(epochs))
    return config


def _named(table: dict[str, Any], name: str, kind: str, *others: str) -> Any:
    if name not in table:
        raise ValueError(f"no {kind} {name!r}; there are {', '.join([*others, *sorted(table)])}")
    return table[name]
