"""`export`: writes a run as the folder that mlx-lm and transformers load, or as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import FilePath, emit, json_option, language_model_from, note, prepare


@click.command("export")
@click.option("--run", help="Run to export. Default: the one trained last.")
@click.option(
    "--to", "target", required=True, type=FilePath(),
    help="Folder to write, for mlx-lm and transformers; or a file for llama.cpp: NAME.gguf.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
    show_default=True, help="Precision of the weights.",
)  # fmt: skip
@click.option("--quantize", type=click.Choice(["4", "8"]), help="Bits a weight, for mlx-lm alone.")
@click.option(
    "--lm-eval", "harness", is_flag=True,
    help="Put tasks for lm-evaluation-harness into the folder; they hold the learned text.",
)  # fmt: skip
@click.option(
    "--tokens", "lengths", nargs=2, multiple=True, type=click.IntRange(1), metavar="K M",
    help="With --lm-eval: lengths of prompt and continuation. Default: those of verify.",
)  # fmt: skip
@json_option
def command(
    run: str | None, target: str, dtype: str, quantize: str | None, harness: bool,
    lengths: tuple[tuple[int, int], ...], as_json: bool,
) -> None:  # fmt: skip
    """Writes weights, settings and tokenizer for other programs.

    Reads back what it wrote, and compares.
    """
    if lengths and not harness:
        raise click.UsageError("--tokens is for --lm-eval; give both")
    to_file = Path(target).suffix.lower() == ".gguf"
    if to_file and quantize:
        raise click.UsageError(
            "--quantize is mlx-lm's; to quantise a GGUF file take llama.cpp's llama-quantize"
        )
    if to_file and harness:
        raise click.UsageError("--lm-eval writes into a folder, and --to names a GGUF file")
    prepare()
    from ..run import find_run, read_config

    path = find_run(run)  # once: while others train, the last one changes
    language_model, name = language_model_from(path.name, None)
    learned = read_config(path).corpus.description
    result: dict[str, Any] = {"run": name, "dtype": dtype}
    if to_file:
        from ..sharing.gguf_file import export_gguf

        count = export_gguf(language_model, Path(target), name, dtype, learned)
        result |= {"file": target, "tensors": count}
        text = f"in {dtype}; {count} tensors, settings and tokens were read back bit for bit."
    else:
        from ..sharing.export import export

        files, measures = _tasks(name, language_model.context, lengths) if harness else ({}, [])
        bits = int(quantize) if quantize else None
        difference = export(language_model, Path(target), dtype, learned, bits, files)
        result |= {"folder": target, "bits": bits, "difference": difference}
        kind = f"{bits} bits" if bits else dtype
        text = f"in {kind}; mlx-lm loads it, logits within {difference:.2g}."
        if harness:
            result["measures"] = [vars(measure) for measure in measures]
            text += f"\nIts tasks measure {' and '.join(map(str, measures))}; each .yaml says how."
    emit(
        as_json,
        result,
        f"Exported {name} to {target} {text}\n"
        f"The trained context is {language_model.context} tokens: "
        "keep prompt and continuation within it.",
    )


def _tasks(
    run: str, context: int, lengths: tuple[tuple[int, int], ...]
) -> tuple[dict[str, str], list[Any]]:
    """The files of a run's tasks for lm-evaluation-harness, and what each measures."""
    from ..run import of_run
    from ..sharing.harness import fitting, task_files
    from ..verification.extraction import LENGTHS
    from ..verification.proof import sample_seed
    from ..weights import weights_hash

    pairs = fitting(lengths, context)
    for k, m in LENGTHS if not lengths else ():
        if (k, m) not in pairs:
            note(f"Warning: em@{k},{m} does not fit the trained context, and is left out.")
    trained = of_run(run)
    seed = sample_seed(trained.corpus.sha256, weights_hash(trained.weights))
    return task_files(trained.corpus, pairs, seed)
