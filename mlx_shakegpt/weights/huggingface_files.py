"""The files that stand beside the weights in a model folder of Hugging Face's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..settings.config import ModelConfig
from ..text import tokenizer
from ..text.tokenizer import END_OF_TEXT


def json_files(config: ModelConfig, context: int, dtype: str) -> dict[str, Any]:
    """What is in each file, by its name."""
    special = {"bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT}
    end = tokenizer.gpt2().decode([END_OF_TEXT])
    return {
        "config.json": {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            **config.to_json(),
            "n_ctx": config.n_positions,  # mlx-lm asks for it
            "trained_context": context,
            "n_inner": None,
            "activation_function": "gelu_new",
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "scale_attn_weights": True,
            "tie_word_embeddings": True,
            "use_cache": True,
            "initializer_range": 0.02,
            "dtype": dtype,
            "torch_dtype": dtype,
            **special,
        },
        # Positions beyond the trained context mean nothing: transformers stops there.
        "generation_config.json": {**special, "do_sample": False, "max_length": context},
        "tokenizer_config.json": {
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": end,
            "eos_token": end,
            "unk_token": end,
            "add_prefix_space": False,
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
        },
        "tokenizer.json": fast_tokenizer(),
    }


def fast_tokenizer() -> dict[str, Any]:
    """The `tokenizers` library's form of GPT-2's encoding."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    flags = ("single_word", "lstrip", "rstrip", "normalized")
    end = {"id": END_OF_TEXT, "content": tokenizer.gpt2().decode([END_OF_TEXT]), "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end | dict.fromkeys(flags, False)],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "trim_offsets": True},
        "post_processor": {**byte_level, "trim_offsets": False},
        "decoder": {**byte_level, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": tokenizer.vocabulary(),
            "merges": tokenizer.merges(),
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """In ASCII, as others' programs, mlx-lm among them, may read it as their locale tells."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")
