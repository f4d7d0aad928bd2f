"""The exported folder in the programs that it is for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, free_port

from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.sharing.export import ExportError, export
from mlx_shakegpt.text import tokenizer
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.weights import full_tensors, learned_text, model_from_hf, stored_dtype

PROMPT = "ROMEO:"
TEXT = {"name": "poem.txt", "sha256": "0" * 64, "first_line": 3, "tokens": 80}
NASTY = "tabs\t\tNUL\0 emoji 👩‍👩‍👧 中文 <|x|>\r\n\n\n  it's 1234567 naïve ﬁ"


@pytest.fixture(scope="module")
def language_model():
    vocabulary = Vocabulary.of(np.arange(0, 50000, 7))
    model = GPT(TINY, vocabulary.rows)
    initialise(model, 0)
    model.update({"wpe": {"weight": model.wpe.weight * 20}})
    return LanguageModel(model, vocabulary, 64)


@pytest.fixture
def folder(language_model, tmp_path):
    export(language_model, tmp_path / "model")
    return tmp_path / "model"


def test_mlx_lm_and_transformers_speak_the_same_tokens(language_model, folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = tokenizer.encode(PROMPT)
    ours = list(stream(language_model, ids, 50))
    assert len(set(ours)) > 5
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    theirs = AutoTokenizer.from_pretrained(folder)
    inputs = theirs(PROMPT, return_tensors="pt")
    made = model.generate(**inputs, max_new_tokens=50, max_length=None, pad_token_id=50256)
    assert made[0].tolist() == ids + ours
    command = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(folder)]
    command += ["--prompt", PROMPT, "--max-tokens", "50", "--verbose", "False"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # mlx-lm drops the first space of what it streams.
    assert done.stdout.strip() == tokenizer.decode(ours).strip()


def test_exported_tokenizer_gives_the_ids_of_tiktoken(folder, pinned):
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (pinned[0].read_text(), NASTY):
        assert fast.encode(text).ids == tokenizer.encode(text)
    assert fast.decode(tokenizer.encode(NASTY)) == NASTY


def test_an_exported_folder_comes_back_as_it_was(language_model, folder):
    back = model_from_hf(folder)
    assert (back.context, back.vocabulary) == (64, None)
    ids = tokenizer.encode(PROMPT)
    assert list(stream(back, ids, 80)) == list(stream(language_model, ids, 80))


@pytest.mark.parametrize(
    ("dtype", "stored", "far"), [("bfloat16", "BF16", 0.25), ("float16", "F16", 0.03)]
)
def test_an_export_in_half_precision_holds_it(language_model, tmp_path, dtype, stored, far):
    difference = export(language_model, tmp_path / "half", dtype)
    assert 0 < difference < far
    assert stored_dtype((tmp_path / "half" / "model.safetensors",)) == stored
    back = model_from_hf(tmp_path / "half").gpt.wte.weight
    assert back.dtype == mx.float32  # what a CPU computes fast
    assert mx.array_equal(back, back.astype(getattr(mx, dtype)).astype(mx.float32))
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize(("bits", "far"), [(4, 0.5), (8, 0.03)])
def test_a_quantised_export_is_spoken_by_mlx_lm_as_by_us(language_model, tmp_path, bits, far):
    folder = tmp_path / "small"
    assert export(language_model, folder, text=TEXT, bits=bits) < 1e-3
    assert stored_dtype((folder / "model.safetensors",)) == f"{bits} bits in groups of 32"
    back = model_from_hf(folder)
    config = json.loads((folder / "config.json").read_text())
    own = config | {"quantization": {"model.wte": config["quantization"]}}  # by layer
    (folder / "config.json").write_text(json.dumps(own))
    assert stored_dtype((folder / "model.safetensors",)) == f"{bits} bits in groups of 32"
    (folder / "config.json").write_text(json.dumps(config))
    assert learned_text(folder) == TEXT and back.context == 64
    plain, small = full_tensors(language_model), full_tensors(back)
    for name, value in plain.items():
        # Half a step of 2^bits in the range of 32 normally distributed numbers, about.
        assert float(mx.abs(value - small[name]).max()) <= far * float(mx.std(value)) + 1e-6, name
    ids = tokenizer.encode(PROMPT)
    command = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(folder)]
    command += ["--prompt", PROMPT, "--max-tokens", "20", "--verbose", "False"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == tokenizer.decode(list(stream(back, ids, 20))).strip()


def test_what_mlx_lm_converts_comes_in(folder, tmp_path):
    """Its files have a prefix, and matrices in MLX's layout."""
    from mlx_lm import convert

    convert(str(folder), str(tmp_path / "theirs"), quantize=True, q_bits=8, q_group_size=32)
    convert(str(folder), str(tmp_path / "plain"))
    ids = tokenizer.encode(PROMPT)
    ours = list(stream(model_from_hf(folder), ids, 30))
    assert list(stream(model_from_hf(tmp_path / "plain"), ids, 30)) == ours
    logits = [
        np.array(model_from_hf(path).gpt(mx.array([ids]))) for path in (folder, tmp_path / "theirs")
    ]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()


def test_quantised_weights_without_sound_settings_are_refused(language_model, tmp_path):
    export(language_model, tmp_path / "small", bits=4)
    path = tmp_path / "small" / "config.json"
    sound = json.loads(path.read_text())
    for wrong in (None, {}, {"group_size": 7, "bits": 4}, {"group_size": 32, "bits": "4"}, []):
        path.write_text(json.dumps(sound | {"quantization": wrong}))
        with pytest.raises(ValueError, match="cannot be dequantised"):
            model_from_hf(tmp_path / "small")


def test_an_existing_folder_is_not_touched(language_model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        export(language_model, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "here"])
def test_a_link_or_the_working_directory_is_filled(language_model, tmp_path, monkeypatch, kind):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    if kind != "dangling link":
        target.mkdir()
    if kind == "here":
        monkeypatch.chdir(target)
    export(language_model, Path() if kind == "here" else link)
    assert link.is_symlink() and model_from_hf(target).context == 64
    assert not [path.name for path in target.iterdir() if path.name.startswith(".")]
    if kind == "here":
        assert os.path.samefile(os.getcwd(), target)


def test_a_folder_that_does_not_reload_as_the_same_model_never_appears(
    language_model, tmp_path, monkeypatch
):
    from mlx_shakegpt.sharing import export as module

    wrong = module.full_tensors(language_model) | {"ln_f.weight": mx.zeros(TINY.n_embd)}
    monkeypatch.setattr(module, "full_tensors", lambda _: wrong)
    with pytest.raises(ExportError, match="logits differ"):
        export(language_model, tmp_path / "model")
    assert not [p for p in tmp_path.iterdir() if "model" in p.name]


def test_a_server_of_mlx_lm_answers_the_openai_client(language_model, folder):
    from openai import OpenAI

    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    ids = tokenizer.encode(PROMPT)
    want = tokenizer.decode(list(stream(language_model, ids, 20)))
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as process:
        try:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=30)
            request = {"model": str(folder), "prompt": PROMPT, "max_tokens": 20, "temperature": 0.0}
            whole = client.completions.create(**request).choices[0].text
            parts = [e.choices[0].text for e in client.completions.create(**request, stream=True)]
        finally:
            process.kill()
    assert whole.strip() == want.strip()
    assert "".join(parts).strip() == want.strip() and len(parts) > 5


def test_a_pipeline_of_transformers_speaks_it(language_model, folder):
    from transformers import pipeline

    spoken = pipeline("text-generation", model=str(folder))(
        PROMPT, max_new_tokens=20, max_length=None, do_sample=False
    )
    ids = tokenizer.encode(PROMPT)
    assert spoken[0]["generated_text"] == PROMPT + tokenizer.decode(
        list(stream(language_model, ids, 20))
    )
