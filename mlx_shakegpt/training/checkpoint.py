"""Saves and restores everything that decides the next step; a checkpoint is whole or not there.

A checkpoint is a folder `checkpoints/<step>` that is written under another name, forced to disk
and renamed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..files import read_json, sha256, sync, write_atomically
from ..model.language_model import fill
from ..model.trees import flat
from ..settings.config import RUN_LENGTH, ModelConfig, TrainConfig
from ..weights import CLOSED_IDS, TRAINED_CONTEXT, run_tensors
from ..weights.safetensors import check_tensors, load_tensors, save_tensors
from .run_state import RunState
from .trainer import Trainer

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
ORDER, STATE = "order.safetensors", "state.json"
TENSORS = (MODEL, OPTIMIZER, ORDER)
KEEP = 2


class DamagedCheckpoint(ValueError):
    """A checkpoint lacks a file or has one with other bytes than were written."""


def save(folder: Path, trainer: Trainer, extra: Mapping[str, Any]) -> Path:
    """Saves the trainer, whose last report must be settled, below `folder`; keeps the last ones and
    the one of the lowest evaluation, and prunes the rest.

    `extra` is JSON that `restore` gives back. Raises OSError, leaving earlier checkpoints alone.
    """
    final = folder / f"{trainer.state.step:08d}"
    writing = folder / f".{final.name}-{os.getpid()}"
    for leftover in folder.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)
    writing.mkdir(parents=True)
    try:
        save_tensors(writing / MODEL, weights_of(trainer))
        save_tensors(writing / OPTIMIZER, flat(trainer.optimizer.state))
        batches = trainer.curriculum.saved(trainer.state.step, trainer.state.full_at)
        save_tensors(writing / ORDER, batches)
        state = {
            "state": asdict(trainer.state),
            "model": trainer.model.config.to_json(),
            "train": trainer.config.to_json(),
            "extra": dict(extra),
            "sha256": {name: sha256(writing / name) for name in TENSORS},
        }
        state["sha256"][STATE] = _digest(state)
        write_atomically(writing / STATE, json.dumps(state, indent=1))
        sync(writing)
        if final.exists():
            shutil.rmtree(final)
        os.rename(writing, final)
        sync(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    best = _best(folder, trainer.state)
    for old in _steps(folder)[:-KEEP]:
        if old != best:
            shutil.rmtree(old, ignore_errors=True)
    return final


def weights_of(trainer: Trainer) -> dict[str, mx.array]:
    """The tensors of a trainer's weights file."""
    return run_tensors(trainer.model, trainer.vocabulary, trainer.context(trainer.state.step - 1))


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint below `folder`, or None, and what is wrong with newer ones."""
    damaged = []
    for path in reversed(_steps(folder)):
        try:
            check(path)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
        else:
            return path, damaged
    return None, damaged


def set_aside(folder: Path, newest: Path | None) -> None:
    """Renames checkpoints newer than the `newest` sound one, so that they no longer count; one of
    the same step that was damaged before gives way."""
    for path in _steps(folder):
        if newest is None or path.name > newest.name:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def check(path: Path) -> dict[str, Any]:
    """The content of a checkpoint's state file, once every byte beside it proved to be as written.

    Raises DamagedCheckpoint.
    """
    try:
        state = read_json(path / STATE)
        if _digest(state) != state["sha256"][STATE]:
            raise ValueError(f"{path / STATE} has other content than was saved")
        for name in TENSORS:
            check_tensors(path / name)
            if sha256(path / name) != state["sha256"][name]:
                raise ValueError(f"{path / name} has other bytes than were saved")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"checkpoint {path} lacks {Path(error.filename).name}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: {error}") from None
    return state


def restore(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Puts a trainer where the saved one stood, and returns the `extra` that was saved. Where the
    trainer's configuration gives it more steps, it has more to go.

    Raises ValueError where the run was saved with another model or training configuration, or with
    more steps.
    """
    saved = check(path)
    before = TrainConfig.from_json(saved["train"])
    for theirs, ours in (
        (ModelConfig.from_json(saved["model"]), trainer.model.config),
        (before, trainer.config),
    ):
        was, now = theirs.to_json(), ours.to_json()
        odd = {name for name in now if was[name] != now[name]}
        if other := min(odd - RUN_LENGTH, default=None):
            raise ValueError(
                f"checkpoint {path} was trained with {other}={was[other]}, "
                f"not {now[other]}; resume with the run's own settings"
            )
    try:
        state = RunState(**saved["state"])
    except TypeError:  # an entry that this version does not know
        raise ValueError(
            f"checkpoint {path} was saved by another version of this program; resume with that one"
        ) from None
    if before != trainer.config:  # in its length
        state = state.extended(trainer.state)
    tensors = load_tensors(path / MODEL)
    for name in (CLOSED_IDS, TRAINED_CONTEXT):
        tensors.pop(name, None)
    fill(trainer.model, tensors, path / MODEL)
    trainer.optimizer.state = tree_unflatten(list(load_tensors(path / OPTIMIZER).items()))
    # MLX drops empty dicts when it flattens a state; init puts them back and keeps the rest. It
    # sees only what is trained, so all blocks are thawed, of which a run that goes back froze some.
    trainer.model.use_blocks(len(trainer.model.h))
    trainer.optimizer.init(trainer.model.trainable_parameters())
    trainer.curriculum.restore(load_tensors(path / ORDER))
    trainer.state = state
    return saved["extra"]


def _digest(state: Mapping[str, Any]) -> str:
    """The hash of a state but for that hash itself."""
    hashes = {name: value for name, value in state["sha256"].items() if name != STATE}
    rest = {**state, "sha256": hashes}
    return sha256(json.dumps(rest, sort_keys=True).encode())


def _best(folder: Path, state: RunState) -> Path | None:
    """The checkpoint of the evaluated step with the lowest loss."""
    saved = {int(path.name): path for path in _steps(folder)}
    scores = [(e["nll"], e["step"]) for e in state.evaluations if e["step"] in saved]
    return saved[int(min(scores)[1])] if scores else None


def _steps(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir() and p.name.isdigit())
