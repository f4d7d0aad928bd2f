"""Model folders by path or by their name on the Hugging Face Hub."""

from __future__ import annotations

import re
from pathlib import Path

WANTED = (
    "config.json", "model*.safetensors", "model.safetensors.index.json", "vocab.json",
    "tokenizer.json",
)  # fmt: skip
_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_name(source: str) -> str:
    """What a folder, or a hub id's model, is called."""
    path = Path(source).expanduser()
    return path.resolve().name if path.is_dir() else source.rpartition("/")[2]


def model_folder(source: str) -> Path:
    """The folder at `source`; or, where that is a hub id like openai-community/gpt2 and no path,
    the hub's folder, downloaded once.

    Raises ValueError where there is none, or the hub does not answer.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    # A path that is wrong in its last part only is not asked for.
    if path.exists() or path.is_absolute() or path.parent.exists() or not _ID.fullmatch(source):
        raise ValueError(
            f"no model folder {source}; check the path, or give a hub id like openai-community/gpt2"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(source, allow_patterns=list(WANTED)))
    except GatedRepoError:
        raise ValueError(f"{source} asks for a login; get one with: hf auth login") from None
    except RepositoryNotFoundError:
        raise ValueError(f"the Hugging Face Hub has no model {source}") from None
    except Exception as error:
        # A broken connection is an error of the HTTP library, as HfHubHTTPError is one.
        if not isinstance(error, (HFValidationError, *HfHubHTTPError.__bases__)):
            raise
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{source} cannot be fetched from the Hugging Face Hub ({why}); go online, or give a "
            "folder that has config.json and model.safetensors"
        ) from None
