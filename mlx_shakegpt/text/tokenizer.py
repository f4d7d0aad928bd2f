"""GPT-2's byte-pair encoding through tiktoken, and text from a stream of tokens."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterable, Iterator
from functools import cache

import tiktoken

from . import assets

END_OF_TEXT = 50256
VOCABULARY = (assets.GPT2_MERGES, assets.GPT2_VOCABULARY)


@cache
def gpt2() -> tiktoken.Encoding:
    """tiktoken's own "gpt2" encoding, read from the hash-checked files in `data/`.

    Raises assets.AssetError where the vocabulary cannot be had.
    """
    files = [assets.ensure(asset) for asset in VOCABULARY]
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(files[0].parent)
    try:
        return tiktoken.get_encoding("gpt2")
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before


@cache
def vocabulary() -> dict[str, int]:
    """GPT-2's tokens, spelled in its byte alphabet, and their ids."""
    return json.loads(assets.ensure(assets.GPT2_VOCABULARY).read_text(encoding="utf-8"))


@cache
def merges() -> list[str]:
    """The pairs of tokens that GPT-2's encoding joins, the first ones first."""
    lines = assets.ensure(assets.GPT2_MERGES).read_text(encoding="utf-8").splitlines()
    return [line for line in lines[1:] if line]  # after a line with the version


def encode(text: str) -> list[int]:
    """Token ids of a text; "<|endoftext|>" in it is plain text like any other."""
    return gpt2().encode_ordinary(text)


def decode(ids: Iterable[int]) -> str:
    """The text of some ids; bytes that are not UTF-8 become U+FFFD."""
    return gpt2().decode(list(ids))


def decode_stream(ids: Iterable[int]) -> Iterator[str]:
    """Yields the text of each token as it comes; a character is held back until it is whole."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    encoding = gpt2()
    for token in ids:
        yield decoder.decode(encoding.decode_single_token_bytes(token))
    yield decoder.decode(b"", final=True)
