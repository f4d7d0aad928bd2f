"""The page itself, in Gradio: a prompt, what the model says, and the evidence beside it.

Nothing is loaded from outside: system fonts, no analytics.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ..generation.decoding import stream
from ..generation.lookup import Lookup
from ..run import CURVE
from ..run.samples import default_prompt
from ..settings.sampling import Sampling
from ..text import tokenizer
from ..text.quotations import Source
from ..verification import certificates
from ..verification.proof import CERTIFICATE, MAP, evidence_folder, mismatches
from ..verification.summary import summary
from ..weights.trained_model import TrainedModel
from .marked import marked, plain
from .request_limits import LONGEST_PROMPT, MOST_TOKENS, WAITING

SECONDS_BETWEEN_FRAMES = 0.05


def page(trained: TrainedModel) -> Any:
    """The page of a model and its text, a gradio.Blocks. Raises ImportError without gradio."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = _private_folder()
    try:
        import gradio as gr
    except ImportError:
        raise ImportError(
            "the demo needs gradio; install it with: pip install 'mlx-shakegpt[demo]'"
        ) from None

    say, text = _speaking(trained), tokenizer.decode(trained.corpus.ids.tolist())
    with gr.Blocks(title=f"{trained.name} · mlx-shakegpt", analytics_enabled=False) as blocks:
        gr.Markdown(_heading(trained))
        with gr.Row():
            with gr.Column(scale=1):
                prompt = gr.Textbox(
                    value=default_prompt(text).strip(), label="Prompt", lines=3,
                    max_length=LONGEST_PROMPT, elem_id="prompt",
                )  # fmt: skip
                with gr.Row():
                    speak = gr.Button("Speak", variant="primary", elem_id="speak")
                    stop = gr.Button("Stop", elem_id="stop")
                gr.Examples(_examples(text), prompt, label="Examples", elem_id="examples")
                tokens = gr.Slider(10, MOST_TOKENS, 150, step=10, label="Tokens")
                temperature = gr.Slider(0, 1.5, 0, step=0.05, label="Temperature (0: greedy)")
                top_k = gr.Slider(0, 200, 0, step=1, label="Top-k (0: off)")
            with gr.Column(scale=2):
                output = gr.HTML(plain("", ""), elem_id="said")
        _evidence(gr, trained)
        inputs = [prompt, tokens, temperature, top_k]
        running: list[Any] = [
            event(say, inputs, output, concurrency_limit=1, concurrency_id="model")
            for event in (speak.click, prompt.submit)
        ]
        stop.click(None, None, None, cancels=running, queue=False)
    return blocks.queue(max_size=WAITING, default_concurrency_limit=1)


@cache
def _private_folder() -> str:
    """A folder for what Gradio writes, such as copies of the evidence, which this user alone can
    read; it goes with the process."""
    folder = tempfile.mkdtemp(prefix="shakegpt-demo-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _speaking(trained: TrainedModel) -> Any:
    """What the page calls: HTML of what the model has said so far, and at last with marks."""
    language_model, ids = trained.language_model, trained.corpus.ids
    source = Source(tokenizer.decode(ids.tolist()), trained.corpus.passage.first_line)

    def say(prompt: str, tokens: float, temperature: float, top_k: float) -> Iterator[str]:
        import gradio as gr

        # The browser's bounds are not those of whoever asks the server directly.
        prompt = str(prompt or "")
        if not 0 < len(prompt) <= LONGEST_PROMPT:
            raise gr.Error(
                f"Give at least one character to go on from, at most {LONGEST_PROMPT:,}."
            )
        try:
            seed = secrets.randbelow(2**32)  # so that asking again may give another text
            sampling = Sampling(temperature=float(temperature), top_k=int(top_k), seed=seed)
            most = min(max(int(tokens), 1), MOST_TOKENS)
        except (TypeError, ValueError, OverflowError) as error:
            raise gr.Error(str(error)) from None
        text, shown = "", time.monotonic()
        yield plain(prompt, text)
        made = stream(language_model, tokenizer.encode(prompt), most, sampling, Lookup(ids))
        for piece in tokenizer.decode_stream(made):
            text += piece
            if time.monotonic() - shown > SECONDS_BETWEEN_FRAMES:
                shown = time.monotonic()
                yield plain(prompt, text)
        yield marked(prompt, text, source)

    return say


def _heading(trained: TrainedModel) -> str:
    config, corpus = trained.language_model.gpt.config, trained.corpus
    return (
        f"# {trained.name}\n{config.n_parameters:,} parameters; learned {len(corpus.ids):,} tokens "
        f"of {corpus.name}, from line {corpus.passage.first_line:,} on. What it says word for word "
        "is marked; the pointer on it shows the line."
    )


def _examples(text: str) -> list[str]:
    """Prompts out of the text: its first line, and speakers' names where it has them."""
    lines = text.splitlines()
    names = list(dict.fromkeys(line for line in lines if line.endswith(":") and line.isupper()))
    first = next((line for line in lines if line.strip()), "Once")
    verses = [line for line in lines if line and not line.endswith(":")]
    return list(dict.fromkeys([*names[:3], first, *verses[len(verses) // 2 :][:1]]))


def _evidence(gr: Any, trained: TrainedModel) -> None:
    """The loss curve, and certificate and map, as far as the folder has those of this very model
    and text."""
    folder = evidence_folder(trained, trained.folder)
    if (trained.folder / CURVE).is_file():
        _picture(gr, trained.folder / CURVE, "Loss curve")
    if not (folder / CERTIFICATE).is_file():
        return
    try:
        certificate = certificates.read(folder / CERTIFICATE)
        text = summary(certificate)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        gr.Markdown(f"{CERTIFICATE} cannot be read; make it anew with `verify`.")
        return
    if mismatches(certificate, trained):
        gr.Markdown(f"{CERTIFICATE} is of another model or text; make one of this with `verify`.")
        return
    if (folder / MAP).is_file():
        _picture(gr, folder / MAP, "Memory map")
    with gr.Accordion("Certificate", open=False):
        gr.Code(text, language=None, interactive=False, show_label=False)
        hashes = {name: certificate[name]["sha256"] for name in ("text", "tokenizer", "weights")}
        gr.Code(json.dumps(hashes, indent=1), language="json", label="sha256", interactive=False)
        gr.DownloadButton("certificate.json", value=str(folder / CERTIFICATE))


def _picture(gr: Any, file: Path, label: str) -> None:
    with gr.Accordion(label, open=False):
        gr.Image(
            str(file), show_label=False, interactive=False, alt_text=label, buttons=["fullscreen"]
        )
