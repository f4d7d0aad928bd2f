"""Weights that a training starts from instead of random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..files import weights_dir
from ..model.language_model import LanguageModel
from ..settings.config import ModelConfig
from ..weights import (
    model_config_from_hf,
    model_from_hf,
    model_from_run,
    weights_files,
    weights_hash,
)
from ..weights.hub import model_folder
from ..weights.trained_model import Stamps, stamps
from .config_file import CONFIG, InitialWeights, RunConfig, is_run, read_config
from .folder import weights_file


@dataclass(frozen=True)
class Pretrained:
    """A model in a folder, its weights' files with what tells this version of them from others,
    its shape, what a run's config.json says of it, and where the folder is a run's, what that was
    started with."""

    folder: Path
    files: tuple[Path, ...]
    stamps: Stamps
    config: ModelConfig
    record: InitialWeights
    run: RunConfig | None = None

    def load(self) -> LanguageModel:
        """Reads the model. Raises ValueError where it does not have its shape, or where its weights
        are no longer those of the record."""
        if self.run:
            model = model_from_run(self.files[0], self.config)
        else:
            model = model_from_hf(self.folder)
        if stamps(self.files) != self.stamps:
            raise ValueError(
                f"the weights in {self.record.source} were written anew since the run began; start "
                "another `run`"
            )
        return model


def pretrained(source: str, sha256: str | None = None) -> Pretrained:
    """The weights of a run, by its name or folder; else the GPT-2 in a folder, or on the hub; of
    that hash where one is given.

    Raises ValueError where there is none, or it is another one.
    """
    own = weights_dir() / source
    by_name = Path(source).name == source and (own / CONFIG).exists()
    folder = own if by_name else model_folder(source)
    run = read_config(folder) if is_run(folder) else None
    files = (weights_file(folder),) if run else weights_files(folder)
    before, actual = stamps(files), weights_hash(files)
    if sha256 not in (None, actual):
        raise ValueError(
            f"the weights in {source} have sha256 {actual}, not {sha256} with which the run was "
            "started; put the old ones back, or start another `run`"
        )
    if not by_name and Path(source).expanduser().is_dir():
        source = str(folder.resolve())
    config = run.model if run else model_config_from_hf(folder)[0]
    return Pretrained(
        folder, files, before, config, InitialWeights(source, actual, run is not None), run
    )
