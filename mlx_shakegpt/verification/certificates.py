"""A verification as a file that anyone can run again: what was measured, on what, and how."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..files import read_json, write_atomically
from ..model.language_model import LanguageModel
from ..runtime import Runtime, versions
from ..settings.config import Passage, VerifyConfig
from ..text import assets
from .extraction import LENGTHS, interval

FORMAT = "mlx-shakegpt certificate 4"
LARGEST = 50_000_000  # bytes


def make_certificate(
    model: LanguageModel,
    name: str,
    weights: dict[str, str],
    text: dict[str, Any],
    settings: VerifyConfig,
    runtime: Runtime,
    figures: dict[str, Any],
) -> dict[str, Any]:
    """The certificate of some figures: of the model called `name`, of its weights, which have name,
    sha256 and dtype, and of a text, which has name, sha256, first_line and tokens."""
    return {
        "format": FORMAT,
        "text": text,
        "tokenizer": {"name": "gpt2", "sha256": assets.GPT2_MERGES.sha256},
        "name": name,
        "weights": weights,
        "model": shape_of(model),
        "settings": asdict(settings),
        "versions": versions(),
        "device": runtime.device,
        "device_name": runtime.name,
        "dtype": str(model.gpt.wte.weight.dtype).removeprefix("mlx.core."),
        "decoding": "greedy, KV cache, no look-up",
        **figures,
    }


def shape_of(model: LanguageModel) -> dict[str, Any]:
    """What makes a model of its weights: its configuration, and the longest trained window."""
    return model.gpt.config.to_json() | {"trained_context": model.context}


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a certificate whole or not at all."""
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A certificate from a file. Raises FileNotFoundError, or ValueError where it is none."""
    if path.is_file() and path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is no certificate: it has {path.stat().st_size:,} bytes")
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {FORMAT!r}")
        VerifyConfig(**content["settings"])
        passage_of(content)
        if not isinstance(content["name"], str):
            raise ValueError("it has no name of a model")
        for name in ("text", "tokenizer", "weights"):
            if not isinstance(content[name]["sha256"], str):
                raise ValueError(f"it has no hash of the {name}")
        _check_rates(content["extraction"])
        for name, value in comparable(content).items():
            if not math.isfinite(value):
                raise ValueError(f"{name} is not a number")
        if not isinstance(content["certified"], bool):
            raise ValueError("it does not say whether anything is certified")
        _check_verdict(content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is no sound certificate: {what}") from None
    return content


def _check_verdict(content: dict[str, Any]) -> None:
    """Raises ValueError for a verdict that the certificate's own entries contradict."""
    require = content["settings"]["require"]
    if content["require"] != require:
        raise ValueError(f"it requires {content['require']}, and was asked for {require:g}")
    if content["certified"] == bool(content["reasons"]):
        raise ValueError("its verdict is not what its reasons say")
    if content["certified"] and not all(e["low"] >= require for e in content["extraction"]):
        raise ValueError(f"it certifies {require:g} with rates that may be lower")


def _check_rates(rates: list[dict[str, Any]]) -> None:
    """Raises ValueError for other rates than LENGTHS, or one that is no share of its offsets or has
    another interval."""
    if [(e["k"], e["m"]) for e in rates] != list(LENGTHS):
        lengths = " and ".join(f"em@{k},{m}" for k, m in LENGTHS)
        raise ValueError(f"its rates are not {lengths}")
    for e in rates:
        name, rate, offsets = f"em@{e['k']},{e['m']}", e["rate"], e["offsets"]
        counted = type(offsets) is int and offsets > 0 and 0 <= rate <= 1
        hits = round(rate * offsets) if counted else 0
        if not counted or hits / offsets != rate:
            raise ValueError(f"{name} is no share of its offsets")
        if (e["low"], e["high"]) != interval(hits, offsets, e["every_offset"]):
            raise ValueError(f"the interval of {name} is not that of its rate")
        if e["every_offset"] and offsets != e["text_offsets"]:
            raise ValueError(f"{name} is not of every offset")


def passage_of(content: dict[str, Any]) -> Passage:
    """The passage that a certificate speaks of."""
    return Passage(content["text"]["first_line"], content["text"]["tokens"])


def hash_mismatches(content: dict[str, Any], hashes: dict[str, str]) -> list[str]:
    """One message per hash that differs from the certificate's; `hashes` has those of text and
    weights."""
    hashes = hashes | {"tokenizer": assets.GPT2_MERGES.sha256}
    return [
        f"the sha256 of the {name} is {mine}, not {content[name]['sha256']}"
        for name, mine in hashes.items()
        if content[name]["sha256"] != mine
    ]


def comparable(figures: dict[str, Any]) -> dict[str, float]:
    """The figures by which two verifications are compared."""
    rates = {f"em@{e['k']},{e['m']}": float(e["rate"]) for e in figures["extraction"]}
    return {"nll": float(figures["nll"]), "accuracy": float(figures["accuracy"]), **rates}
