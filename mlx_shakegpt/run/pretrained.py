"""Weights that a training starts from instead of random ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..model.gpt import GPT
from ..settings.config import ModelConfig
from ..weights import model_config_from_hf, model_from_hf, weights_files, weights_hash
from ..weights.hub import model_folder
from .config_file import InitialWeights


@dataclass(frozen=True)
class Pretrained:
    """A model in a folder, its shape, and what a run's config.json says of it."""

    folder: Path
    config: ModelConfig
    record: InitialWeights

    @cached_property
    def model(self) -> GPT:
        """The model itself, read when it is first asked for. Raises ValueError where it does not
        have its shape."""
        return model_from_hf(self.folder).gpt


def pretrained(source: str, sha256: str | None = None) -> Pretrained:
    """The GPT-2 in a folder, or on the hub, of that hash where one is given.

    Raises ValueError where there is none, or it is another one.
    """
    folder = model_folder(source)
    actual = weights_hash(weights_files(folder))
    if sha256 not in (None, actual):
        raise ValueError(
            f"the weights in {source} have sha256 {actual}, not {sha256} with which the run was "
            "started; put the old ones back, or start another `run`"
        )
    own = str(folder.resolve()) if Path(source).expanduser().is_dir() else source
    config, _ = model_config_from_hf(folder)
    return Pretrained(folder, config, InitialWeights(own, actual))
