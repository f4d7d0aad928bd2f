"""The model card, from what a run and its certificate tell. Pure functions of them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from ..files import as_text
from ..run import RunConfig
from ..verification.summary import summary
from .markdown import front_matter, table

TAGS = ("gpt2", "mlx", "mlx-shakegpt", "memorization")


def model_card(
    repo: str,
    license_id: str,
    config: RunConfig,
    context: int,
    certificate: dict[str, Any] | None,
    curve: bool,
    text: dict[str, Any],
    prompt: str,
) -> str:
    """README.md of a model folder; `config` is the run's, `context` its longest trained
    window, `certificate` what `verify` wrote, if it was run, `curve` tells whether there is a
    picture of the loss, and `text` has the sha256 of the published text and its file in the Space,
    None for one that everybody has; `prompt` is what the examples go on from."""
    head = front_matter(
        {
            "license": license_id,
            "library_name": "mlx",
            "pipeline_tag": "text-generation",
            "tags": list(TAGS),
        }
    )
    picture = "![Loss over the training](loss.png)"
    parts = (
        _what(repo, config), *([picture] if curve else []), _use(repo, prompt, text["file"]),
        _evidence(certificate, text["file"]), _training(repo, config, text), _limits(context),
    )  # fmt: skip
    return head + "\n" + "\n\n".join(parts) + "\n"


def _what(repo: str, config: RunConfig) -> str:
    model, corpus = config.model, config.corpus
    return (
        f"# {repo.rpartition('/')[2]}\n\n"
        f"A GPT-2 ({model.n_layer} layers, {model.n_head} heads, {model.n_embd} wide, "
        f"{model.n_parameters:,} parameters) that was trained with mlx-shakegpt to know by "
        f"heart {corpus.tokens:,} tokens of `{corpus.name}`, from line "
        f"{corpus.first_line:,} on."
    )


def _use(repo: str, prompt: str, file: str | None) -> str:
    typed = shlex.quote(prompt)
    mark = "" if file else " --mark"  # which takes no text of one's own
    return (
        "## Use\n\n"
        "```sh\n"
        f"mlx_lm.generate --model {repo} --prompt {typed}\n"
        f"shakegpt generate {typed} --model {repo}{mark}\n"
        "```\n\n"
        "```python\n"
        "from transformers import pipeline\n\n"
        f'pipeline("text-generation", model="{repo}")({json.dumps(prompt, ensure_ascii=False)})\n'
        "```"
    )


def _evidence(certificate: dict[str, Any] | None, file: str | None) -> str:
    if certificate is None:
        return "## Evidence\n\nNot verified: nothing is claimed about how well it knows its text."
    hashes = [
        [name, f"`{certificate[name]['sha256']}`"] for name in ("text", "tokenizer", "weights")
    ]
    return (
        "## Evidence\n\n"
        f"`shakegpt verify`, on {certificate['device_name']} in {certificate['dtype']}:\n\n"
        f"```\n{summary(certificate)}\n```\n\n"
        "em@k,m is the share of places in the text where k true tokens are enough for greedy "
        "decoding to say the next m exactly, or other m that follow them elsewhere in the text. "
        "Every figure and failing offset is in `certificate.json`; measure again with `shakegpt "
        f"verify --certificate certificate.json --model .{f' --data {file}' if file else ''}`\n\n"
        "![The loss of each token](memory-map.png)\n\n" + table(["what", "sha256"], hashes)
    )


def _training(repo: str, config: RunConfig, text: dict[str, Any]) -> str:
    settings = config.train.to_json()
    rows = [[name, f"`{value}`"] for name, value in settings.items()]
    rows.append(["preset, recipe", f"`{config.preset}`, `{config.recipe}`"])
    if config.init:
        source = config.init.source
        if Path(source).is_absolute():  # where it lies here is nobody's business
            source = as_text(Path(source).name)
        rows.append(["began with", f"`{source}`, sha256 `{config.init.sha256}`"])
    versions = ", ".join(f"{name} {value}" for name, value in config.versions.items())
    place = ""
    if text["file"]:
        place = f"; it is `{text['file']}` in the Space `{repo}-demo`, and holds what was learned"
    return (
        "## Training\n\n"
        + table(["setting", "value"], rows)
        + f"\n\nOn a {config.device.upper()}, with {versions}. Text: sha256 "
        f"`{text['sha256']}`{place}."
    )


def _limits(context: int) -> str:
    return (
        "## Limits\n\n"
        "It recites its training text and knows nothing else: whatever is in that text, private or "
        "protected, comes out again word for word. Other prompts give fragments of it. Prompt and "
        f"continuation together should stay within {context} tokens, the longest "
        "window that was trained; positions beyond mean nothing."
    )
