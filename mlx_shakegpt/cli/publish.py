"""`publish`: a run for others, as a model with its card and as a Space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..settings.config import VerifyConfig
from .common import FilePath, emit, json_option, options, prepare
from .long import Parts, awake


@click.command("publish")
@click.option("--run", help="Run to publish. Default: the one trained last.")
@click.option("--repo", required=True, help="Name on the Hub, like someone/romeo-gpt2.")
@click.option("--to", "target", type=FilePath(), help="Folder to write. Default: the repo's name.")
@click.option(
    "--license", "license_id", default="mit", show_default=True, help="Licence of the weights."
)
@click.option("--private", is_flag=True, help="Make both repositories private.")
@click.option("--dry-run", is_flag=True, help="Only write the folders.")
@click.option(
    "--verify/--no-verify", "verified", default=True, show_default=True,
    help="Verify the exported model, and put its certificate beside it.",
)  # fmt: skip
@options(VerifyConfig, "require", "samples", "all_up_to")
@json_option
def command(
    run: str | None, repo: str, target: str | None, license_id: str, private: bool, dry_run: bool,
    verified: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Writes a model folder with its card and a Space that generates text, and uploads both."""
    prepare()
    from ..sharing.bundle import publish
    from ..sharing.upload import check_upload, upload

    if not dry_run:
        check_upload(repo, private)
    folder = Path(target or repo.rpartition("/")[2])
    config = VerifyConfig(**settings) if verified else None
    with awake():
        made = publish(run, repo, folder, license_id, config, Parts())
    result: dict[str, Any] = {"model": str(made.model), "space": str(made.space)}
    result["certified"] = made.certified
    verdict = {True: "certified", False: "NOT certified, as its card says", None: "not verified"}
    text = f"{made.model} and {made.space} are written; the model is {verdict[made.certified]}."
    if not dry_run:
        result["addresses"] = upload(made, repo, private)
        text += f"\nThey are at {' and '.join(result['addresses'])}."
    emit(as_json, result, text)
