"""What is published: a card that tells the truth, and a Space that runs as it was written."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from conftest import ROOT, free_port

from mlx_shakegpt.cli.publish import command as publish_command
from mlx_shakegpt.publish.space import _readme, requirements
from mlx_shakegpt.weights import speaker_from_hf

sys.path.insert(0, str(ROOT / "benchmarks"))
from space import ask


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder that the tests of this file share."""
    return tmp_path_factory.mktemp("published") / "out"


@pytest.fixture
def published(shakegpt, known_run, once):
    """The folders of the small model that knows its text, written once."""
    if not once.exists():
        options = ["--repo", "someone/first-citizen", "--to", once, "--dry-run"]
        result = shakegpt("publish", "--run", "known", *options, "--json")
        assert result.code == 0, result.err
        assert result.json()["certified"] is True
    return once


def test_the_card_tells_figures_hashes_settings_and_limits(published):
    card = (published / "model" / "README.md").read_text()
    head, body = card.split("---\n")[1:3]
    assert 'license: "mit"' in head and '"gpt2"' in head
    paper = json.loads((published / "model" / "certificate.json").read_text())
    for wanted in (
        paper["weights"]["sha256"], paper["text"]["sha256"], f"{paper['nll']:.6f}", "CERTIFIED",
        "mlx_lm.generate --model someone/first-citizen", "pipeline(", "| lr | `0.001` |",
        "word for word", "within 128 tokens",
    ):  # fmt: skip
        assert wanted in body, wanted
    assert paper["name"] == "first-citizen" and "![Loss over the training](loss.png)" in body
    assert (published / "model" / "loss.png").exists()
    assert (published / "model" / "memory-map.png").exists()


def test_the_certificate_holds_for_the_published_folder(shakegpt, published):
    model = published / "model"
    again = shakegpt("verify", "--model", model, "--certificate", model / "certificate.json")
    assert again.code == 0, again.err
    assert speaker_from_hf(model).context == 128


def test_the_space_speaks_without_the_checkout(published):
    space = published / "space"
    head = (space / "README.md").read_text()
    assert 'sdk: "gradio"' in head and 'app_file: "app.py"' in head
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SHAKE", "PYTHONPATH"))}
    environment |= {"GRADIO_SERVER_PORT": str(free_port())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=space, env=environment, **pipes) as process:
        said = process.stdout.readline()
        assert "speaks at" in said, said + process.stdout.read()
        heard = ask(said.split()[-1].rstrip("/"), "First Citizen:", 20)
        process.terminate()
    assert "Before we proceed any further, hear me speak." in heard and "<mark" in heard


def test_the_space_needs_what_the_program_and_its_demo_need():
    names = {line.partition("==")[0].partition("[")[0] for line in requirements()}
    assert {"mlx", "mlx-lm", "tiktoken", "numpy", "gradio", "rapidfuzz"} <= names
    assert not {"torch", "pytest", "wandb"} & names


def test_a_space_can_be_written_where_gradio_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "gradio>=6.31" in requirements()
    head = _readme("someone/romeo").split("---")[1]
    assert 'sdk: "gradio"' in head and "sdk_version" not in head


def test_without_a_token_it_says_how_to_get_one(shakegpt, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = shakegpt("publish", "--repo", "someone/x", "--to", tmp_path / "out")
    assert result.code == 2 and "hf auth login" in result.err and "--dry-run" in result.err
    assert not (tmp_path / "out").exists()
    assert publish_command.name == "publish"


def test_uploads_go_through_the_hubs_own_library(published, monkeypatch):
    import huggingface_hub

    from mlx_shakegpt.publish import Published, upload

    calls = []

    class Api:
        def create_repo(self, repo, **options):
            calls.append(("create", repo, options.get("repo_type", "model")))
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo}")

        def upload_folder(self, repo_id, folder_path, repo_type="model"):
            calls.append(("upload", repo_id, repo_type))
            assert (folder_path / "README.md").exists()

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    folders = Published(published / "model", published / "space", True)
    upload(folders, "someone/first-citizen", private=True)
    assert calls == [
        ("create", "someone/first-citizen", "model"),
        ("upload", "someone/first-citizen", "model"),
        ("create", "someone/first-citizen-demo", "space"),
        ("upload", "someone/first-citizen-demo", "space"),
    ]
