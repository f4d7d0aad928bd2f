"""Model folders from elsewhere: other names, shards, and what is not to be read."""

import json
import re

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from conftest import TINY

from mlx_shakegpt.weights import model_config_from_hf, model_from_hf, weights_files, weights_hash

IDS = np.array([[5962, 22307, 25, 198, 8421]])


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    shape = TINY.to_json() | {"bos_token_id": 50256, "eos_token_id": 50256}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def same(folder, model):
    return np.abs(np.array(model_from_hf(folder).gpt(IDS)) - logits(model)).max() < 1e-4


@pytest.fixture(params=["with a head", "without a head", "in shards", "bf16"])
def folder(request, theirs, tmp_path):
    """What transformers itself saves."""
    model = theirs.transformer if request.param == "without a head" else theirs
    shards = {"max_shard_size": "3MB"} if request.param == "in shards" else {}
    if request.param == "bf16":
        model = transformers.GPT2LMHeadModel(theirs.config).to(torch.bfloat16)
        model.load_state_dict(theirs.state_dict())
    model.save_pretrained(tmp_path / "theirs", **shards)
    if request.param == "in shards":
        assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    return tmp_path / "theirs"


def test_what_transformers_saves_comes_in(folder, theirs):
    if json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16":
        theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    assert model_config_from_hf(folder) == (TINY, 64)
    assert same(folder, theirs)
    files = weights_files(folder)
    before = weights_hash(files)
    data = bytearray(files[-1].read_bytes())
    data[-1] ^= 1
    files[-1].write_bytes(data)
    assert weights_hash(files) != before


def test_old_files_with_masks_and_a_tied_head_come_in(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    tensors = dict(mx.load(str(tmp_path / "model.safetensors")))
    tensors |= {f"transformer.h.{i}.attn.bias": mx.ones((1, 1, 64, 64)) for i in range(2)}
    tensors["transformer.h.0.attn.masked_bias"] = mx.array(-1e4)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    assert same(tmp_path, theirs)
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    mx.save_safetensors(str(tmp_path / "model.safetensors"), tensors)
    with pytest.raises(ValueError, match="head of its own"):
        model_from_hf(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("activation_function", "relu", "has activation_function 'relu'; only 'gelu_new' is"),
        ("scale_attn_by_inverse_layer_idx", True, "inverse_layer_idx True; only False is computed"),
        ("tie_word_embeddings", False, "has tie_word_embeddings False; only True is computed"),
        ("n_inner", 7, "has n_inner 7, not 128"),
        ("vocab_size", 50304, "has a vocabulary of 50304, not GPT-2's"),
        ("model_type", "llama", "holds a 'llama' model, not a gpt2"),
    ],
)
def test_models_that_compute_otherwise_are_refused(theirs, tmp_path, name, value, message):
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=re.escape(message)):
        model_from_hf(tmp_path)


def test_another_tokenizer_is_refused(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    for name, content in {
        "vocab.json": {"a": 0},
        "tokenizer.json": {"model": {"vocab": {"a": 0}}},
        "./tokenizer.json": {"model": 7},
    }.items():
        (tmp_path / name).write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{name.removeprefix('./')} is not GPT-2's encoding"):
            model_from_hf(tmp_path)
        (tmp_path / name).unlink()


def test_weights_that_may_run_code_are_not_read(theirs, tmp_path):
    theirs.config.save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin may run code"):
        model_from_hf(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", 7, "", {}])
def test_an_index_names_no_file_outside(theirs, tmp_path, name):
    theirs.config.save_pretrained(tmp_path)
    index = {"weight_map": {"wte.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="names a file outside"):
        model_from_hf(tmp_path)
