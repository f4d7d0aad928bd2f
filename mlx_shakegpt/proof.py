"""Proves how well a model knows its text: measures, certifies, and measures again.

Knows nothing of terminals; whoever asks is told of each part that is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import VerifyConfig
from .memory import certificate as papers
from .memory.nll import Scores
from .memory.places import memory_map, worst_lines
from .memory.verify import Text, verify
from .run import Subject
from .runtime import setup

CERTIFICATE, MAP = "certificate.json", "memory-map.png"

Done = Callable[[str], None]


@dataclass(frozen=True)
class Proof:
    """What was measured: `figures` by their JSON names, each token's scores, the certificate."""

    subject: Subject
    figures: dict[str, Any]
    scores: Scores
    paper: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Puts certificate and map into a folder."""
        corpus = self.subject.corpus
        papers.write(folder / CERTIFICATE, self.paper)
        title = f"{self.subject.name}, {corpus.name}"
        memory_map(folder / MAP, corpus.ids, self.scores, corpus.passage.first_line, title)


def prove(subject: Subject, settings: VerifyConfig, done: Done = lambda part: None) -> Proof:
    """Measures all that a certificate tells. Raises ValueError for a text that is too short."""
    corpus, weights = subject.corpus, subject.hashed()
    figures, scores = _measured(subject, settings, done)
    figures["worst_lines"] = worst_lines(corpus.ids, scores, corpus.passage.first_line)
    told = subject.name, weights, corpus.told
    paper = papers.certificate(subject.speaker, *told, settings, setup(), figures)
    return Proof(subject, figures, scores, paper)


def differences(
    paper: dict[str, Any], subject: Subject, done: Done = lambda part: None
) -> list[str]:
    """What is not as a certificate tells; other hashes, and if there are none, other figures."""
    hashes = {"text": subject.corpus.sha256, "weights": subject.hashed()["sha256"]}
    if found := papers.other_hashes(paper, hashes):
        return found
    figures, _ = _measured(subject, VerifyConfig(**paper["settings"]), done)
    return papers.differences(paper, figures)


def writable(folder: Path) -> Path:
    """A folder, made if it is missing. Raises ValueError where nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written; choose another folder with --to")
    return folder


def _measured(
    subject: Subject, settings: VerifyConfig, done: Done
) -> tuple[dict[str, Any], Scores]:
    corpus = subject.corpus
    return verify(
        subject.speaker, Text(corpus.ids, *corpus.around(subject.learned)), settings, done
    )
