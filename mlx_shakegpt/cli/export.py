"""`export`: writes a run as the folder that mlx-lm and transformers load, or as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import emit, json_option, language_model_from, prepare


@click.command("export")
@click.option("--run", help="Run to export; else the one trained last.")
@click.option(
    "--to", "target", required=True, type=click.Path(),
    help="Folder to write, for mlx-lm and transformers; or a file for llama.cpp: NAME.gguf.",
)  # fmt: skip
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
    show_default=True,
)  # fmt: skip
@click.option("--quantize", type=click.Choice(["4", "8"]), help="Bits a weight, for mlx-lm alone.")
@json_option
def command(
    run: str | None, target: str, dtype: str, quantize: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Writes weights, settings and tokenizer for other programs.

    Reads what it wrote and compares before it says done.
    """
    to_file = Path(target).suffix.lower() == ".gguf"
    if to_file and quantize:
        raise click.UsageError(
            "--quantize is mlx-lm's; to quantise a GGUF file take llama.cpp's llama-quantize"
        )
    prepare()
    from ..run import find_run, read_config

    language_model, name = language_model_from(run, None)
    learned = read_config(find_run(run)).corpus.description
    result: dict[str, Any] = {"run": name, "dtype": dtype}
    if to_file:
        from ..sharing.gguf_file import export_gguf

        count = export_gguf(language_model, Path(target), name, dtype, learned)
        result |= {"file": target, "tensors": count}
        text = f"in {dtype}; {count} tensors, settings and tokens were read back bit for bit."
    else:
        from ..sharing.export import export

        bits = int(quantize) if quantize else None
        difference = export(language_model, Path(target), dtype, learned, bits)
        result |= {"folder": target, "bits": bits, "difference": difference}
        kind = f"{bits} bits" if bits else dtype
        text = f"in {kind}; mlx-lm loads it, logits within {difference:.2g}."
    emit(
        as_json,
        result,
        f"Exported {name} to {target} {text}\n"
        f"The trained context is {language_model.context} tokens: "
        "keep prompt and continuation within it.",
    )
