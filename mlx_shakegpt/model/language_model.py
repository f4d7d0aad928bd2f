"""A GPT with its vocabulary, ready to generate, and how tensors become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from ..runtime import on_gpu
from ..settings.config import ModelConfig
from ..text.vocabulary import Vocabulary
from .gpt import GPT
from .trees import flat


@dataclass(frozen=True)
class LanguageModel:
    """A GPT ready to generate: its rows are ids, or with `vocabulary` those of a closed one.

    `context` is the longest window that was trained; positions beyond it mean nothing.
    """

    gpt: GPT
    vocabulary: Vocabulary | None
    context: int

    def rows_of(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The row of each id; the model checks them. Raises ValueError for an id that a closed
        vocabulary does not know."""
        held = np.asarray(ids)
        return self.vocabulary.rows_of(held) if self.vocabulary else held

    @cached_property
    def table(self) -> mx.array:
        """Row of each id, (vocab_size,) int32, on the device; for closed vocabularies."""
        assert self.vocabulary is not None
        return mx.array(self.vocabulary.table)

    @cached_property
    def ids(self) -> mx.array:
        """The id of each row, (rows,) int32; the shared row stands for the first absent id."""
        assert self.vocabulary is not None
        absent = np.setdiff1d(np.arange(self.vocabulary.total), self.vocabulary.own)[:1]
        return mx.array(np.append(self.vocabulary.own, absent).astype(np.int32))

    def expand(self, logits: mx.array) -> mx.array:
        """Logits (…, vocab_size) of logits (…, rows)."""
        if not self.vocabulary:
            return logits
        return logits[..., self.table]


def rows_for(start: LanguageModel, vocabulary: Vocabulary | None) -> mx.array:
    """A model's `wte` as one with another `vocabulary` has it, or with rows for all ids.

    Raises ValueError where the ids that would share a row have different ones.
    """
    weight = start.gpt.wte.weight
    if vocabulary is None:
        return weight[start.table] if start.vocabulary else weight
    absent = np.setdiff1d(np.arange(vocabulary.total), vocabulary.own)
    shared = weight[mx.array(np.unique(start.rows_of(absent)))]
    if len(shared) and mx.abs(shared - shared[0]).max().item():
        raise ValueError(
            "the initial weights have rows of their own for ids that the text lacks; "
            "use `closed_vocab` False"
        )
    return mx.concatenate([weight[mx.array(start.rows_of(vocabulary.own))], shared[:1]])


def built(config: ModelConfig, rows: int, tensors: Mapping[str, mx.array], path: Path) -> GPT:
    """A model of some tensors, from `path`, at a precision that this device computes fast: a CPU's
    is float32. Raises ValueError where they are not those of the model."""
    need = config.n_parameters - (config.vocab_size - rows) * config.n_embd
    held = sum(value.size for value in tensors.values())
    if need > held:  # said before the model takes any memory
        raise ValueError(f"{path} does not fit the model: it has {held:,} numbers, not {need:,}")
    model = GPT(config, rows)
    fill(model, tensors, path)
    if not on_gpu():
        model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def fill(model: GPT, tensors: Mapping[str, mx.array], path: Path) -> None:
    """Puts tensors into a model. Raises ValueError where names or shapes differ from its own, or
    one has no floating-point numbers."""
    expected = {name: value.shape for name, value in flat(model.parameters()).items()}
    for name in sorted(expected.keys() | tensors.keys()):
        want, have = expected.get(name), tensors[name].shape if name in tensors else None
        if want != have:
            raise ValueError(
                f"{path} does not fit the model: {name} is {have or 'missing'}, "
                f"expected {want or 'no such tensor'}"
            )
        if not mx.issubdtype(tensors[name].dtype, mx.floating):
            raise ValueError(
                f"{path} does not fit the model: {name} is {tensors[name].dtype}, expected "
                "floating-point numbers"
            )
    model.update(tree_unflatten(list(tensors.items())))
