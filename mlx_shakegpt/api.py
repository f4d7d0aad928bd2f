"""The program as a library: what its commands do, without a terminal.

```python
from mlx_shakegpt import generate, load, train, verify

model = train("poem.txt", run="poem", preset="quick")
print("".join(generate(model, "From fairest")))
print(verify(model).figures["certified"])
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .generation.decoding import stream
from .generation.lookup import Lookup
from .run import of_run, open_run
from .runtime import setup
from .settings.config import VerifyConfig
from .settings.sampling import Sampling
from .text import tokenizer
from .training import StepReport
from .verification.proof import Proof, prove
from .weights.hub import model_folder, model_name
from .weights.trained_model import TrainedModel, of_folder


def load(source: str | Path | None = None, data: str | Path | None = None) -> TrainedModel:
    """A model with the text that it is to know. `data` is another text's path.

    `source` is the name of a run (None: the one trained last), or, in Hugging Face's form, a folder
    or hub id. A plain name is always a run's: a folder beside you is "./name", or a Path.

    Raises ValueError, or FileNotFoundError, where there is none.
    """
    setup()
    text = Path(data) if data else None
    if isinstance(source, Path) or "/" in (source or ""):
        return of_folder(model_folder(str(source)), text, name=model_name(str(source)))
    return of_run(source, text)


def train(
    data: str | Path | None = None,
    *,
    resume: bool = False,
    checkpoint_every: int = 0,
    on_step: Callable[[StepReport], Any] = lambda report: None,
    **settings: Any,
) -> TrainedModel:
    """Trains a run to its end, and returns its model with its text (None: Tiny Shakespeare).

    `settings` may have preset, recipe, run, first_line, corpus_tokens, init and any field of
    TrainConfig; with `resume`, more epochs or steps than before lead past the run's end. `on_step`
    gets every step's report; where it raises, or on Ctrl-C, the run can be resumed from its last
    checkpoint. A run that ends above its target loss is returned as well: `verify` tells what it
    knows. Raises ValueError for what cannot be had, and TrainingError for losses that are not
    finite.
    """
    settings |= {"data": str(data)} if data else {}
    run = open_run(setup(), settings, resume)
    try:
        for report in run.follow(checkpoint_every):
            on_step(report)
    finally:
        run.close()
    return of_run(run.path.name)


def generate(
    model: TrainedModel, prompt: str, max_tokens: int = 200, lookup: bool = True, **sampling: Any
) -> Iterator[str]:
    """The continuation of a prompt, piece by piece, in whole characters; greedy unless `sampling`
    (fields of Sampling: temperature, top_k, top_p, min_p, seed) says otherwise.

    With `lookup`, guesses from the learned text make it faster; greedy text stays the same, sampled
    text its distribution. Raises ValueError for an empty prompt.
    """
    guesses = Lookup(model.corpus.ids) if lookup else None
    ids = tokenizer.encode(prompt)
    made = stream(model.language_model, ids, max_tokens, Sampling(**sampling), guesses)
    return tokenizer.decode_stream(made)


def verify(
    model: TrainedModel, done: Callable[[str], None] = lambda part: None, **settings: Any
) -> Proof:
    """Measures how well a model knows its text: `figures`, with `certified` among them, and
    `write(folder)` for certificate and map. `settings` are fields of VerifyConfig.

    Raises ValueError for a text that is too short to prove anything.
    """
    return prove(model, VerifyConfig(**settings), done)
