"""Writes what is published: the model's folder with card and evidence, and its Space."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..files import must_be_empty, write_atomically
from ..run import CURVE, of_run, read_config
from ..run.samples import default_prompt
from ..settings.config import Passage, VerifyConfig
from ..text.corpus import Corpus
from ..text.tokenizer import decode
from ..verification.figures import PartProgress, too_short
from ..verification.proof import prove
from ..weights.trained_model import of_folder
from .card import model_card
from .export import export
from .space import TEXT, write_space


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
    progress: PartProgress = lambda part, share: None,
) -> Published:
    """Writes a run's model and its Space below `folder`; nothing leaves the machine.

    Of a text of one's own the Space has what was learned, and no other part; certificate and
    config.json speak of that. With `settings` the exported model is verified, and its certificate
    lies beside it. What is interrupted leaves nothing behind. Raises ValueError where the folder is
    not empty or the run cannot be exported.
    """
    must_be_empty(folder)
    trained = of_run(run)
    config = read_config(trained.folder)
    model, space = folder / "model", folder / "space"
    if settings and (reason := too_short(trained.corpus.ids)):
        raise ValueError(f"{reason}; to publish it unproven, use `verified` False")
    with _whole_or_gone(model, space):
        corpus = _excerpt(trained.corpus, space / TEXT) if trained.corpus.path else trained.corpus
        export(trained.language_model, model, text=corpus.description)
        progress("export", 1)
        if (trained.folder / CURVE).exists():
            shutil.copyfile(trained.folder / CURVE, model / CURVE)
        certificate = None
        if settings:
            data = Path(corpus.path) if corpus.path else None
            exported = of_folder(model, data, name=repo.rpartition("/")[2])
            proof = prove(replace(exported, corpus=corpus), settings, progress)
            proof.write(model)
            certificate = proof.certificate
        context, curve = trained.language_model.context, (model / CURVE).exists()
        text = corpus.description | {"file": TEXT if corpus.path else None}
        prompt = default_prompt(decode(corpus.ids.tolist())).strip()
        card = model_card(repo, license_id, config, context, certificate, curve, text, prompt)
        (model / "README.md").write_text(card, encoding="utf-8")
        write_space(space, model, repo, own_text=corpus.path is not None)
        return Published(model, space, certificate["certified"] if certificate else None)


def _excerpt(corpus: Corpus, file: Path) -> Corpus:
    """Writes what was learned of a text of one's own, and nothing else of it, as a text with a hash
    of its own; returns it under the old name."""
    write_atomically(file, corpus.excerpt())
    return replace(Corpus.load(file, Passage(tokens=len(corpus.ids))), name=corpus.name)


@contextmanager
def _whole_or_gone(*folders: Path) -> Iterator[None]:
    """Removes the folders where what is to fill them does not come to its end."""
    try:
        yield
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise
