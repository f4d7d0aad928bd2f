"""The program as a library: what its commands do, without a terminal.

```python
from mlx_shakegpt import generate, load, train, verify

model = train("poem.txt", run="poem", preset="quick")
print("".join(generate(model, "From fairest")))
print(verify(model).figures["certified"])
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

from .generation.decoding import stream
from .generation.lookup import Lookup
from .run import of_run, open_run
from .runtime import setup
from .settings.config import VerifyConfig
from .settings.keywords import TrainSettings
from .settings.sampling import Sampling
from .text import tokenizer
from .training import StepReport
from .verification.proof import Proof, prove
from .weights.hub import model_folder, model_name
from .weights.trained_model import TrainedModel, of_folder


def load(source: str | Path | None = None, data: str | Path | None = None) -> TrainedModel:
    """A model with the text that it is to know.

    Args:
        source: A run's name; None is the run that was trained last. Or, in Hugging Face's form, a
            folder or hub id. A plain name is always a run's: a folder beside you is "./name", or a
            Path.
        data: Another text than the one that it learned, as a path.

    Raises ValueError, or FileNotFoundError, where there is none.

    ```python
    model = load("poem")
    ```
    """
    setup()
    text = None if data is None else Path(data)
    if isinstance(source, Path) or "/" in (source or ""):
        return of_folder(model_folder(str(source)), text, name=model_name(str(source)))
    return of_run(source, text)


def train(
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    run: str | None = None,
    config: str | Path | None = None,
    preset: str | None = None,
    recipe: str | None = None,
    init: str | None = None,
    rehearse: bool | None = None,
    first_line: int | None = None,
    corpus_tokens: int | None = None,
    resume: bool = False,
    checkpoint_every: int = 0,
    on_step: Callable[[StepReport], Any] = lambda report: None,
    **settings: Unpack[TrainSettings],
) -> TrainedModel:
    """Trains a run to its end.

    Args:
        data: The text to learn, UTF-8, or a folder of .txt files, or several of both; None is Tiny
            Shakespeare.
        run: The name of its folder in weights/; None is the preset's.
        config: A TOML file with settings, such as the config.toml of a run, which it repeats;
            those given here besides take their place.
        preset: The model's shape, and the passage of Tiny Shakespeare that it learns; None is
            "auto", for this machine.
        recipe: Training settings by name; None is "recite", or what a resumed run has.
        init: A run's name, or a folder or hub id, whose GPT-2 to begin with instead of random
            weights.
        rehearse: With a run as `init`, whether to learn its texts again beside the new one; None is
            what `config` says, else True.
        first_line: The passage's first line, from 1; None is the preset's.
        corpus_tokens: The passage's tokens, 0 for all from there on; None is the preset's.
        resume: Go on with the run, where it exists, from its newest sound checkpoint. With more
            epochs or steps than before, it goes on past its end.
        checkpoint_every: Steps between checkpoints; 0 is one every two minutes.
        on_step: Gets every step's report. Where it raises, or on Ctrl-C, the run can be resumed
            from its last checkpoint.
        settings: Fields of TrainConfig, such as lr, steps or batch_size, other than the recipe's.

    Returns the model with its text, also where it ended above its target: `verify` measures what it
    knows. Raises ValueError for settings that cannot be, OSError for files that cannot be read,
    and TrainingError for losses that are not finite.

    ```python
    model = train("poem.txt", run="poem", preset="quick", epochs=30)
    ```
    """
    named = {
        "data": _paths(data), "run": run, "preset": preset,
        "rehearse": rehearse,
        "config": str(config) if config else None, "recipe": recipe, "init": init,
        "first_line": first_line, "corpus_tokens": corpus_tokens,
    }  # fmt: skip
    chosen = {**settings, **{k: v for k, v in named.items() if v is not None}}
    opened = open_run(setup(), chosen, resume)
    try:
        for report in opened.train(checkpoint_every):
            on_step(report)
    finally:
        opened.close()
    return of_run(opened.path.name)


def _paths(data: str | Path | Sequence[str | Path] | None) -> str | list[str] | None:
    if data is None:
        return None
    if isinstance(data, str | Path):
        return str(data)
    return [str(path) for path in data]


def generate(
    model: TrainedModel,
    prompt: str,
    max_tokens: int = 200,
    lookup: bool = True,
    *,
    temperature: float = Sampling.temperature,
    top_k: int = Sampling.top_k,
    top_p: float = Sampling.top_p,
    min_p: float = Sampling.min_p,
    seed: int = Sampling.seed,
) -> Iterator[str]:
    """The continuation of a prompt, piece by piece, in whole characters.

    Args:
        model: What `load` or `train` returned.
        prompt: What to go on from, at least one character.
        max_tokens: Tokens to add at most.
        lookup: Let guesses from the learned text make it faster; greedy text stays the same,
            sampled text its distribution.
        temperature: 0 takes the likeliest token; 1 samples as trained.
        top_k: Sample among so many likeliest tokens; 0 is all.
        top_p: Sample within this share of probability; 0 is all.
        min_p: Leave out tokens below this share of the likeliest's probability.
        seed: Of the sampling.

    Raises ValueError for settings that cannot be, and for an empty prompt when the first piece is
    asked for.

    ```python
    print("".join(generate(load("poem"), "From fairest", max_tokens=60)))
    ```
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    guesses = Lookup(model.corpus.ids) if lookup else None
    ids = tokenizer.encode(prompt)
    return tokenizer.decode_stream(stream(model.language_model, ids, max_tokens, sampling, guesses))


def verify(
    model: TrainedModel,
    progress: Callable[[str, float], None] = lambda part, share: None,
    *,
    require: float = VerifyConfig.require,
    samples: int = VerifyConfig.samples,
    all_up_to: int = VerifyConfig.all_up_to,
) -> Proof:
    """Measures how well a model knows its text by heart.

    Args:
        model: What `load` or `train` returned.
        progress: Called with the name of a part of the measurement, and the share of it that is
            done, 1 at its end.
        require: The smallest extraction rate to certify.
        samples: Offsets to measure where the text has more than `all_up_to`; 0 is all.
        all_up_to: Texts with at most so many offsets are measured at all of them.

    Returns the proof: its `figures`, with `certified` among them, and `write(folder)` for
    certificate and map. Raises ValueError for a text that is too short to prove anything.

    ```python
    print(verify(load("poem")).figures["certified"])
    ```
    """
    settings = VerifyConfig(require=require, samples=samples, all_up_to=all_up_to)
    return prove(model, settings, progress)
