"""Does a run recite? Greedy continuation of its passage's first tokens, against the text itself.

    python benchmarks/recital.py [--run NAME] [--prompt 16] [--tokens 200]

Exits 1 where a token differs. Offsets spread over the passage are tried too, for the record.
"""

import sys

import click

from mlx_shakegpt import runtime
from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.run import find_run, load_corpus, load_model
from mlx_shakegpt.sharing import markdown


@click.command()
@click.option("--run", default=None, help="Run to test; else the one trained last.")
@click.option("--prompt", default=16, show_default=True, help="True tokens given.")
@click.option("--tokens", default=200, show_default=True, help="Tokens that must follow exactly.")
@click.option("--offsets", default=16, show_default=True, help="Other places tried.")
def main(run: str | None, prompt: int, tokens: int, offsets: int) -> None:
    runtime.setup()
    path = find_run(run)
    ids = load_corpus(path).ids.tolist()
    language_model = load_model(path)
    last = len(ids) - prompt - tokens
    rows, exact = [], 0
    for place in range(offsets + 1):
        offset = place * last // max(1, offsets)
        output = list(stream(language_model, ids[offset : offset + prompt], tokens))
        truth = ids[offset + prompt : offset + prompt + tokens]
        run_length = next(
            (i for i in range(tokens) if output[i : i + 1] != truth[i : i + 1]), tokens
        )
        exact += run_length == tokens
        rows.append([offset, f"{run_length} of {tokens}"])
        if place == 0:
            from_start = run_length
    click.echo(markdown.table(["prompt at token", "exact tokens after it"], rows))
    click.echo(f"\n{path.name}: {exact} of {len(rows)} recited to the end.")
    sys.exit(from_start < tokens)


if __name__ == "__main__":
    main()
