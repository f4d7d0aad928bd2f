"""`export`: writes a run as the folder that mlx-lm and transformers load."""

from __future__ import annotations

from pathlib import Path

import click

from .common import emit, json_option, language_model_from, prepare


@click.command("export")
@click.option("--run", help="Run to export; else the one trained last.")
@click.option("--to", "target", required=True, type=click.Path(), help="Folder to write.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True
)
@click.option("--quantize", type=click.Choice(["4", "8"]), help="Bits a weight, for mlx-lm alone.")
@json_option
def command(run: str | None, target: str, dtype: str, quantize: str | None, as_json: bool) -> None:
    """Writes safetensors, config and tokenizer; reloads them and compares before it says done."""
    prepare()
    from ..run import find_run, read_config
    from ..sharing.export import export

    language_model, name = language_model_from(run, None)
    learned = read_config(find_run(run)).corpus.description
    bits = int(quantize) if quantize else None
    difference = export(language_model, Path(target), dtype, learned, bits)
    result = {"run": name, "folder": target, "dtype": dtype, "bits": bits, "difference": difference}
    kind = f"{bits} bits" if bits else dtype
    text = (
        f"Exported {name} to {target} in {kind}; mlx-lm loads it, "
        f"logits within {difference:.2g}.\n"
        f"The trained context is {language_model.context} tokens: "
        "keep prompt and continuation within it."
    )
    emit(as_json, result, text)
