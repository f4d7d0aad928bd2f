"""The GGUF file, as the package of its inventors and transformers read it.

benchmarks/llama_cpp.py lets llama.cpp itself speak one.
"""

import builtins
import json
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from test_golden import EXPECTED

from mlx_shakegpt import load
from mlx_shakegpt.sharing.export import ExportError
from mlx_shakegpt.sharing.gguf_file import export_gguf
from mlx_shakegpt.text.tokenizer import decode, encode
from mlx_shakegpt.weights import full_tensors

# Hugging Face's name, llama.cpp's, and whether it is transposed: convert_hf_to_gguf.py has them.
NAMES = {
    "wte.weight": ("token_embd.weight", False),
    "wpe.weight": ("position_embd.weight", False),
    "ln_f.weight": ("output_norm.weight", False),
    "ln_f.bias": ("output_norm.bias", False),
} | {
    f"h.{i}.{ours}.{part}": (f"blk.{i}.{theirs}.{part}", part == "weight" and "ln" not in ours)
    for i in range(2)
    for part in ("weight", "bias")
    for ours, theirs in {
        "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    }.items()
}  # fmt: skip


@pytest.fixture
def language_model(golden_run):
    return load("golden").language_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_each_tensor_is_ours_bit_for_bit(language_model, tmp_path, dtype):
    path = tmp_path / "golden.gguf"
    assert export_gguf(language_model, path, "golden", dtype) == len(NAMES)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    tensors = full_tensors(language_model)
    assert tensors.keys() == NAMES.keys() and {n for n, _ in NAMES.values()} == read.keys()
    for name, value in tensors.items():
        theirs, transposed = NAMES[name]
        matrix = value.ndim == 2 and name != "wpe.weight"
        rounded = value.astype(getattr(mx, dtype) if matrix else mx.float32)
        ours = np.array(rounded.astype(mx.float32))
        kind = read[theirs].tensor_type
        assert kind.name == ({"float32": "F32", "bfloat16": "BF16"}.get(dtype, "F16")
                             if matrix else "F32")  # fmt: skip
        data = gguf.quants.dequantize(read[theirs].data, kind)
        np.testing.assert_array_equal(data, ours.T if transposed else ours, err_msg=name)


def test_the_command_writes_what_llama_cpp_asks_for(shakegpt, golden_run, tmp_path):
    path = tmp_path / "golden.gguf"
    done = shakegpt("export", "--run", "golden", "--to", path, "--json")
    assert done.code == 0, done.err
    assert done.json() == {"run": "golden", "dtype": "float32", "file": str(path), "tensors": 28}
    fields = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 50257 and tokens[262] == "Ġthe"
    assert set(types[:-1]) == {gguf.TokenType.NORMAL} and types[-1] == gguf.TokenType.CONTROL
    merges = fields["tokenizer.ggml.merges"]
    assert len(merges) == 50000 and merges[0] == "Ġ t"
    learned = json.loads((golden_run / "config.json").read_text())["corpus"]
    for name, value in {
        "general.architecture": "gpt2", "general.name": "golden", "general.file_type": 0,
        "gpt2.block_count": 2, "gpt2.context_length": 64, "gpt2.embedding_length": 24,
        "gpt2.feed_forward_length": 96, "gpt2.attention.head_count": 2,
        "gpt2.attention.layer_norm_epsilon": pytest.approx(1e-5),
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 50256, "tokenizer.ggml.eos_token_id": 50256,
        "tokenizer.ggml.add_bos_token": False, "shakegpt.trained_context": 64,
        "shakegpt.learned_text.sha256": learned["sha256"],
        "shakegpt.learned_text.tokens": learned["tokens"],
    }.items():  # fmt: skip
        assert fields[name] == value, name


def test_transformers_speaks_the_file_as_the_run_does(language_model, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    export_gguf(language_model, tmp_path / "golden.gguf", "golden")
    # From the file it reads all settings but the length of the position table.
    config = GPT2Config(n_layer=2, n_head=2, n_embd=24, n_positions=64)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, gguf_file="golden.gguf", config=config)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="golden.gguf")
    inputs = theirs(EXPECTED["prompt"], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == encode(EXPECTED["prompt"])
    made = model.generate(
        **inputs, max_new_tokens=len(EXPECTED["ids"]), do_sample=False, pad_token_id=50256
    )[0].tolist()
    assert made == inputs["input_ids"][0].tolist() + EXPECTED["ids"]
    assert theirs.decode(made) == EXPECTED["prompt"] + decode(EXPECTED["ids"])


@pytest.mark.parametrize("there", ["a file", "a folder", "a link that leads nowhere"])
def test_what_exists_is_not_touched(shakegpt, golden_run, tmp_path, there):
    path = tmp_path / "mine.gguf"
    if there == "a file":
        path.write_text("dear")
    elif there == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    before = path.lstat()
    done = shakegpt("export", "--to", path)
    assert done.code == 2 and f"{path} exists; choose another name" in done.err
    assert path.lstat() == before and list(tmp_path.glob("*mine*")) == [path]


def test_quantising_it_is_left_to_llama_cpp(shakegpt, golden_run, tmp_path):
    path = tmp_path / "golden.GGUF"
    done = shakegpt("export", "--to", path, "--quantize", 4)
    assert done.code == 2 and "llama-quantize" in done.err and done.err.count("\n") == 1
    assert not path.exists()


def test_without_the_package_one_line_says_how_to_get_it(
    shakegpt, golden_run, tmp_path, monkeypatch
):
    original = builtins.__import__

    def missing(name, *rest):
        if name == "gguf":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    done = shakegpt("export", "--to", tmp_path / "x.gguf")
    assert done.code == 2 and "pip install 'mlx-shakegpt[gguf]'" in done.err


def test_a_weight_too_large_for_float16_is_refused(language_model, tmp_path):
    weight = language_model.gpt.h[0].mlp.c_fc.weight
    language_model.gpt.h[0].mlp.c_fc.weight = mx.where(weight == weight.max(), 1e5, weight)
    with pytest.raises(ValueError, match=r"h\.0\.mlp\.c_fc\.weight has 1e\+05, too large"):
        export_gguf(language_model, tmp_path / "x.gguf", "x", "float16")
    assert export_gguf(language_model, tmp_path / "x.gguf", "x", "bfloat16") == len(NAMES)


@pytest.mark.parametrize(
    ("where", "message"),
    [("metadata", "another tokenizer"), ("weights", "differs in the written file")],
)
def test_a_file_that_reads_back_otherwise_never_appears(
    language_model, tmp_path, monkeypatch, where, message
):
    close = gguf.GGUFWriter.close

    def close_and_damage(self):
        path = Path(self.fout[0].name)
        close(self)
        content = bytearray(path.read_bytes())
        place = content.index(b"gpt-2") if where == "metadata" else len(content) - 100
        content[place] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(gguf.GGUFWriter, "close", close_and_damage)
    with pytest.raises(ExportError, match=message):
        export_gguf(language_model, tmp_path / "golden.gguf", "golden")
    assert not [path for path in tmp_path.iterdir() if "golden" in path.name]
