"""Tasks by which lm-evaluation-harness measures how well a model knows its text, tagged "recite".

YAML files and JSON lines, with nothing in them to run. The harness speaks in text and not in ids,
so a task has only places where a text has one meaning in both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..settings.config import VerifyConfig
from ..text.corpus import Corpus
from ..text.tokenizer import END_OF_TEXT, encode, gpt2
from ..verification.extraction import LENGTHS, sample
from ..verification.repeats import Repeats

TAG = "recite"
VERSION = 1
# exact_match compares whole texts. Without `until` the harness would stop at an empty line, and its
# MLX backend cannot do with none.
TASK = """\
# How often a model says the next {m} tokens of its text after {k}, by lm-evaluation-harness.
# In this folder start
#   lm_eval run --model hf --model_args pretrained=. --include_path . --tasks {tag}
#   mlx_lm.evaluate --model . --tasks {tag}_*.yaml
task: {name}
task_alias: em@{k},{m}
tag: {tag}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
num_fewshot: 0
output_type: generate_until
doc_to_text: prompt
doc_to_target: continuations
generation_kwargs: {{until: ["{end}"], max_gen_toks: {m}, do_sample: false, temperature: 0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {metadata}
"""


@dataclass(frozen=True)
class Measure:
    """What a task measures: em@k,m at `offsets` of the text; `left_out` more could not be told."""

    k: int
    m: int
    offsets: int
    left_out: int

    def __str__(self) -> str:
        rest = f", {self.left_out:,} left out" if self.left_out else ""
        return f"em@{self.k},{self.m} at {self.offsets:,} offsets{rest}"


def fitting(lengths: Sequence[tuple[int, int]], context: int) -> list[tuple[int, int]]:
    """The pairs (k, m) to measure: those wanted, else those of `verify` that the context holds.

    Raises ValueError for one that it does not hold: other programs have no window that moves on,
    and lm-evaluation-harness cuts a prompt that leaves no room for all m.
    """
    fits = [(k, m) for k, m in lengths or LENGTHS if k + m <= context]
    if not fits or (lengths and len(fits) < len(lengths)):
        k, m = next(pair for pair in lengths or LENGTHS if pair not in fits)
        raise ValueError(
            f"{k} tokens and {m} more do not fit the trained context of {context}; "
            "take fewer `tokens`"
        )
    return list(dict.fromkeys(fits))


def task_files(
    corpus: Corpus, lengths: Sequence[tuple[int, int]], seed: int
) -> tuple[dict[str, str], list[Measure]]:
    """The tasks' files by name, and what each measures.

    With the seed of a verification (`sample_seed`) their offsets are those of its certificate, by
    default settings, in a random order: the first so many are a random sample too. Raises
    ValueError where the text is shorter than k + m, or has no place that can be told.
    """
    files, measures = {}, []
    settings = VerifyConfig()
    text = {name: corpus.description[name] for name in ("sha256", "first_line", "tokens")}
    for k, m in lengths:
        n = len(corpus.ids) - k - m + 1
        if n < 1:
            raise ValueError(f"the text has {len(corpus.ids)} tokens, fewer than {k} + {m}")
        offsets = sample(n, settings.samples or n, seed, settings.all_up_to).offsets
        offsets = np.random.default_rng(seed).permutation(offsets)
        rows = [json.dumps(row) + "\n" for row in places(corpus.ids, k, m, offsets)]
        if not rows:
            raise ValueError(f"no {k} + {m} tokens of the text are whole characters")
        measure = Measure(k, m, len(rows), len(offsets) - len(rows))
        about = {"version": VERSION, **asdict(measure), "seed": seed, "learned_text": text}
        name = f"{TAG}_{k}_{m}"
        files[f"{name}.jsonl"] = "".join(rows)
        files[f"{name}.yaml"] = TASK.format(
            tag=TAG, name=name, k=k, m=m, end=_end(), metadata=json.dumps(about)
        )
        measures.append(measure)
    return files, measures


def places(ids: np.ndarray, k: int, m: int, offsets: np.ndarray) -> Iterator[dict[str, Any]]:
    """Offset, prompt and all true continuations at each offset that can be told in text alone.

    The prompt's k tokens must come back from its text, which they may not where they begin or end
    within a word or a run of spaces. Prompt and continuations must be whole characters.
    """
    repeats = Repeats.of(ids, k, m)
    for offset in offsets.tolist():
        tokens = ids[offset : offset + k].tolist()
        prompt = _text(tokens)
        texts = list({_text(row): None for row in repeats.continuations(offset).tolist()})
        if prompt is not None and None not in texts and encode(prompt) == tokens:
            yield {"offset": offset, "prompt": prompt, "continuations": texts}


def _text(tokens: list[int]) -> str | None:
    """The text of tokens, or None where an exact comparison of it could be misled: by a cut
    character, whose bytes others replace; by the replacement itself; by the end-of-text token
    spelt out, at which others stop; or by a NUL at the end, which numpy drops."""
    try:
        text = gpt2().decode_bytes(tokens).decode()
    except UnicodeDecodeError:
        return None
    return None if "\ufffd" in text or _end() in text or text.endswith("\0") else text


def _end() -> str:
    return gpt2().decode([END_OF_TEXT])
