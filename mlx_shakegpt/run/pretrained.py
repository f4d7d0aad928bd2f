"""Weights that a training starts from instead of random ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..model.gpt import GPT
from ..weights import model_from_hf, weights_files, weights_hash
from ..weights.hub import model_folder


@dataclass(frozen=True)
class Pretrained:
    """A model, where it came from, and the hash of its weights' files."""

    model: GPT
    source: str
    sha256: str

    @property
    def description(self) -> dict[str, str]:
        """What a run's settings say of it."""
        return {"source": self.source, "sha256": self.sha256}


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
    return Pretrained(model_from_hf(folder).gpt, own, actual)
