"""Writes what is published: the model's folder with card and evidence, and its Space."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import VerifyConfig
from ..export import export
from ..files import must_be_empty
from ..proof import prove
from ..run import CURVE, of_folder, of_run, read_config
from .card import model_card
from .space import write_space


@dataclass(frozen=True)
class Published:
    """The folders that were written, and whether the model is certified (None: not verified)."""

    model: Path
    space: Path
    certified: bool | None


def publish(
    run: str | None,
    repo: str,
    folder: Path,
    license_id: str = "mit",
    settings: VerifyConfig | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> Published:
    """Writes a run's model and its Space below `folder`; nothing leaves the machine.

    With `settings` the exported model is verified, and its certificate lies beside it. Raises
    ValueError where the folder is not empty or the run cannot be exported.
    """
    must_be_empty(folder)
    subject = of_run(run)
    config = read_config(subject.folder)
    model = folder / "model"
    export(subject.speaker, model, text=subject.corpus.told)
    done("exported")
    if (subject.folder / CURVE).exists():
        shutil.copyfile(subject.folder / CURVE, model / CURVE)
    paper = None
    if settings:
        data = Path(subject.corpus.path) if subject.corpus.path else None
        name = repo.rpartition("/")[2]
        proof = prove(of_folder(model, data, name=name), settings, done)
        proof.write(model)
        paper = proof.paper
    context, curve = subject.speaker.context, (model / CURVE).exists()
    card = model_card(repo, license_id, config, context, paper, curve)
    (model / "README.md").write_text(card)
    write_space(folder / "space", model, repo, subject.corpus)
    done("written")
    return Published(model, folder / "space", paper["certified"] if paper else None)
