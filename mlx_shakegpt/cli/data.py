"""`data`: fetches or rebuilds the pinned files and shows what they are."""

from __future__ import annotations

import click

from .common import downloads, emit, json_option


@click.command("data")
@json_option
def command(as_json: bool) -> None:
    """Fetches Tiny Shakespeare and GPT-2's vocabulary, or checks those that are there."""
    import numpy as np

    from ..sharing import markdown
    from ..text import assets, tokenizer

    with downloads() as progress:
        files = [assets.ensure(asset, progress) for asset in assets.ASSETS]
    ids = np.array(tokenizer.encode(files[0].read_text(encoding="utf-8")))
    entries = [
        {"name": a.name, "path": str(f), "bytes": f.stat().st_size, "sha256": a.sha256}
        for a, f in zip(assets.ASSETS, files, strict=True)
    ]
    result = {
        "files": entries,
        "tokens": len(ids),
        "distinct": len(np.unique(ids)),
        "vocabulary": tokenizer.gpt2().n_vocab,
    }
    rows = [[f["name"], f"{f['bytes']:,}", f["sha256"], f["path"]] for f in entries]
    text = markdown.table(["file", "bytes", "sha256", "path"], rows) + (
        f"\n\nTiny Shakespeare is {len(ids):,} tokens, {result['distinct']:,} distinct "
        f"of {result['vocabulary']:,}."
    )
    emit(as_json, result, text)
