"""Proves how well a model knows its text: measures, certifies, and measures again.

Knows nothing of terminals; whoever asks is told of each part that is done.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import sha256
from ..runtime import setup
from ..settings.config import Passage, VerifyConfig
from ..weights.trained_model import TrainedModel
from . import certificates
from .comparison import Comparison, compare
from .evidence import CERTIFICATE, MAP, set_aside_others
from .figures import PartProgress, Text, measure
from .fresh import FreshRate, fresh_rates
from .loss import Scores
from .memory_map import memory_map, worst_lines


@dataclass(frozen=True)
class Proof:
    """What was measured: `figures` by their JSON names, each token's scores, the certificate."""

    trained: TrainedModel
    figures: dict[str, Any]
    scores: Scores
    certificate: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Puts certificate and map into a folder, where those of another model, text or passage are
        kept under other names."""
        corpus = self.trained.corpus
        hashes = {name: self.certificate[name]["sha256"] for name in ("text", "weights")}
        set_aside_others(folder, hashes, certificates.passage_of(self.certificate))
        (folder / MAP).unlink(missing_ok=True)  # so that it is never another certificate's
        certificates.write(folder / CERTIFICATE, self.certificate)
        title = f"{self.trained.name}, {corpus.name}"
        memory_map(folder / MAP, corpus.ids, self.scores, corpus.passage.first_line, title)


def prove(
    trained: TrainedModel,
    settings: VerifyConfig,
    progress: PartProgress = lambda part, share: None,
) -> Proof:
    """Measures all that a certificate tells. Raises ValueError for a text that is too short."""
    corpus, weights = trained.corpus, trained.hashed()
    text = Text(corpus.ids, *corpus.around(trained.learned))
    seed = sample_seed(corpus.sha256, weights["sha256"])
    figures, scores = measure(trained.language_model, text, settings, seed, progress)
    figures["worst_lines"] = worst_lines(corpus.ids, scores, corpus.passage.first_line)
    certificate = certificates.make_certificate(
        trained.language_model, trained.name, weights, corpus.description, settings, setup(),
        figures,
    )  # fmt: skip
    return Proof(trained, figures, scores, certificate)


def sample_seed(text: str, weights: str) -> int:
    """The seed of a verification, from the hashes of text and weights: no training can know it.

    Who changes a byte of the file until a sample suits him may be found out by `sample_again`, the
    more surely the more offsets it measures.
    """
    return int.from_bytes(hashlib.sha256(f"{text}\n{weights}".encode()).digest()[:4])


def measure_again(
    certificate: dict[str, Any],
    trained: TrainedModel,
    progress: PartProgress = lambda part, share: None,
) -> Comparison:
    """Compares a certificate with a new measurement; only the hashes, where they differ."""
    if other := _of_others(certificate, trained):
        return other
    settings = VerifyConfig(**certificate["settings"])
    return compare(certificate, prove(trained, settings, progress).certificate)


def sample_again(
    certificate: dict[str, Any],
    trained: TrainedModel,
    seed: int,
    samples: int,
    progress: PartProgress = lambda part, share: None,
) -> tuple[Comparison, list[FreshRate]]:
    """Tests a certificate's rates, and what it certifies, on fresh samples of `samples` offsets (0:
    all); only the hashes are compared where they differ."""
    if other := _of_others(certificate, trained):
        return other, []
    rates = fresh_rates(
        certificate["extraction"], trained.language_model, trained.corpus.ids, seed, samples,
        progress,
    )  # fmt: skip
    differences = [str(rate) for rate in rates if not rate.agrees]
    if certificate["certified"]:
        least = certificate["settings"]["require"]
        differences += [
            f"{rate.name} is below the certified {least:g}: {rate}"
            for rate in rates
            if rate.agrees and not rate.may_be(least)
        ]
    return Comparison(differences, [rate.name for rate in rates], ["all other figures"]), rates


def _of_others(certificate: dict[str, Any], trained: TrainedModel) -> Comparison | None:
    differences = mismatches(certificate, trained)
    what = ["sha256 of text, tokenizer and weights", "passage", "shape of the model"]
    return Comparison(differences, what, []) if differences else None


def mismatches(certificate: dict[str, Any], trained: TrainedModel) -> list[str]:
    """Of what other text, weights, passage or shape a certificate speaks; empty where it is the
    trained model's own. Raises ValueError as TrainedModel.hashed."""
    corpus = trained.corpus
    hashes = {"text": corpus.sha256, "weights": trained.hashed()["sha256"]}
    differences = certificates.hash_mismatches(certificate, hashes)
    mine, its = (
        Passage(corpus.passage.first_line, len(corpus.ids)),
        certificates.passage_of(certificate),
    )
    if mine != its:
        differences.append(f"the passage is {_passage(mine)}, not {_passage(its)}")
    # No hash of weights tells the heads, the windows or what a LayerNorm adds.
    shape, stated = certificates.shape_of(trained.language_model), certificate.get("model")
    if not isinstance(stated, dict) or stated.keys() != shape.keys():
        return [*differences, "the model has another shape than the stated one"]
    differences += [
        f"the model's {name} is {value}, not {stated[name]}"
        for name, value in shape.items()
        if stated[name] != value
    ]
    return differences


def _passage(passage: Passage) -> str:
    return f"{passage.tokens:,} tokens from line {passage.first_line:,} on"


def evidence_folder(trained: TrainedModel, folder: Path) -> Path:
    """Where in a model's folder certificate and map belong: itself for the text that it learned, or
    may have learned; for one of its several texts, another text or passage a folder of their own
    below."""
    if trained.own_text:
        return folder
    if trained.one_of_its_texts:
        return folder / "texts" / trained.corpus.name
    description = trained.corpus.description
    mark = sha256("{sha256} {first_line} {tokens}".format(**description).encode())[:12]
    return folder / "other-texts" / mark
