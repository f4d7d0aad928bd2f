"""Uploads published folders to the Hugging Face Hub, through huggingface_hub."""

from __future__ import annotations

from .folders import Published

TOKENS = "https://huggingface.co/settings/tokens"


def must_have_token() -> None:
    """Raises ValueError where nobody is logged in at the hub, with what to do."""
    from huggingface_hub import get_token

    if not get_token():
        raise ValueError(
            f"no Hugging Face token; make one that may write at {TOKENS} and run: hf auth login; "
            "or only write the folders with --dry-run"
        )


def upload(published: Published, repo: str, private: bool) -> tuple[str, str]:
    """Uploads model and Space, made if they are missing; their addresses.

    Raises ValueError where nobody is logged in or the hub refuses.
    """
    must_have_token()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        model = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=model.repo_id, folder_path=published.model)
        name = f"{model.repo_id}-demo"
        space = api.create_repo(
            name, private=private, exist_ok=True, repo_type="space", space_sdk="gradio"
        )
        api.upload_folder(repo_id=name, folder_path=published.space, repo_type="space")
    except (HfHubHTTPError, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"the hub did not take it ({why}); the folders are in {published.model.parent}"
        ) from None
    return str(model), str(space)
