"""Uploads published folders to the Hugging Face Hub, through huggingface_hub."""

from __future__ import annotations

from contextlib import suppress

from .bundle import Published

TOKENS = "https://huggingface.co/settings/tokens"


def check_upload(repo: str, private: bool) -> None:
    """Raises ValueError where nobody is logged in at the hub, or where what is to be private would
    go to a repository that exists and is public, with what to do."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    if not get_token():
        raise ValueError(
            f"no Hugging Face token; make one that may write at {TOKENS} and run: hf auth login; "
            "or only write the folders with `dry_run`"
        )
    if not private:
        return
    api = HfApi()
    try:
        name = repo if "/" in repo else f"{api.whoami()['name']}/{repo}"
        for kind, place in (("model", name), ("space", f"{name}-demo")):
            with suppress(RepositoryNotFoundError):
                if not api.repo_info(place, repo_type=kind).private:
                    raise ValueError(
                        f"the {kind} {place} exists and is public; make it private in its settings "
                        "on the hub, or choose another `repo`"
                    )
    except (HfHubHTTPError, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"the hub does not say whether {repo} is private ({why})") from None


def upload(published: Published, repo: str, private: bool) -> tuple[str, str]:
    """Uploads model and Space, made if they are missing; their addresses.

    Raises ValueError as check_upload, or where the hub refuses.
    """
    check_upload(repo, private)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        model = api.create_repo(repo, private=private, exist_ok=True)
        name = f"{model.repo_id}-demo"
        space = api.create_repo(
            name, private=private, exist_ok=True, repo_type="space", space_sdk="gradio"
        )
        api.upload_folder(repo_id=model.repo_id, folder_path=published.model)
        api.upload_folder(repo_id=name, folder_path=published.space, repo_type="space")
    except (HfHubHTTPError, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"the hub did not take it ({why}); the folders are in {published.model.parent}"
        ) from None
    return str(model), str(space)
