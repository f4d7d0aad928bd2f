"""What is published: a card that tells the truth, and a Space that runs as it was written."""

import http.client
import json
import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import httpx
import pytest
from conftest import ROOT, free_port, opinionated
from space import ask

from mlx_shakegpt.files import sha256
from mlx_shakegpt.settings.config import Passage, VerifyConfig
from mlx_shakegpt.sharing import bundle
from mlx_shakegpt.sharing.bundle import Published
from mlx_shakegpt.sharing.export import export
from mlx_shakegpt.sharing.space import requirements, write_space
from mlx_shakegpt.sharing.upload import upload
from mlx_shakegpt.text.corpus import Corpus
from mlx_shakegpt.text.tokenizer import encode
from mlx_shakegpt.verification.certificates import hash_mismatches
from mlx_shakegpt.weights import learned_text, model_from_hf
from mlx_shakegpt.weights.trained_model import of_folder


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


SECRET = "Nobody is to read this line.\n"


def test_of_a_text_of_ones_own_only_what_was_learned_leaves(
    shakegpt, tiny_preset, poem, tmp_path, home
):
    start = tmp_path / "private" / "start"
    export(opinionated(32), start)
    poem.write_text(SECRET + poem.read_text() * 3 + SECRET)
    passage = ["--data", poem, "--first-line", 2, "--corpus-tokens", 250]
    options = ["--init", start, "--run", "own", "--steps", 1]
    assert shakegpt("train", *passage, *options).code == 1
    out = tmp_path / "out"
    result = shakegpt("publish", "--repo", "someone/own", "--to", out, "--dry-run", "--json")
    assert result.code == 0 and result.json()["certified"] is False, result.err

    text, model = out / "space" / "text.txt", out / "model"
    learned = Corpus.load(poem, Passage(2, 250))
    assert encode(text.read_text(encoding="utf-8"))[:250] == learned.ids.tolist()
    for file in out.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for private in (SECRET.strip(), str(tmp_path), str(home), str(ROOT), learned.sha256):
            assert private.encode() not in content, (file, private)

    description = {"name": "poem.txt", "sha256": sha256(text), "first_line": 1, "tokens": 250}
    paper = json.loads((model / "certificate.json").read_text())
    assert paper["text"] == learned_text(model) == description
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "250 tokens of `poem.txt`, from line 2 on" in card and sha256(text) in card
    origin = f"| began with | `start`, sha256 `{sha256(start / 'model.safetensors')}` |"
    assert origin in card and "--model . --data text.txt" in card
    assert 'shakegpt generate "ROMEO:"' not in card and "--mark" not in card
    assert "shakegpt generate 'From fairest creatures' --model someone/own\n" in card
    assert '("From fairest creatures")' in card
    published = of_folder(model, text)
    assert published.corpus.ids.tolist() == learned.ids.tolist()
    hashes = {"text": published.corpus.sha256, "weights": published.hashed()["sha256"]}
    assert not hash_mismatches(paper, hashes)


def test_a_text_that_cannot_be_proven_is_refused_before_anything_is_written(
    shakegpt, tiny_preset, poem, tmp_path
):
    options = ["--preset", "tiny", "--run", "short", "--steps", 1]
    assert shakegpt("train", "--data", poem, *options).code == 1
    publish = ["publish", "--repo", "someone/short", "--to", tmp_path / "out", "--dry-run"]
    refused = shakegpt(*publish)
    assert refused.code == 2 and "to publish it unproven, use --no-verify" in refused.err
    assert not (tmp_path / "out").exists()
    assert shakegpt(*publish, "--no-verify").code == 0


def test_what_is_interrupted_while_it_is_proven_can_be_published_again(
    known_run, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle, "prove", interrupted)
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        bundle.publish("known", "someone/known", folder, settings=VerifyConfig())
    assert not any(folder.glob("*"))
    assert bundle.publish("known", "someone/known", folder).model.is_dir()


def test_the_certificate_holds_for_the_published_folder(shakegpt, published):
    model = published / "model"
    again = shakegpt("verify", "--model", model, "--certificate", model / "certificate.json")
    assert again.code == 0, again.err
    assert model_from_hf(model).context == 128


@pytest.mark.parametrize("hosted", [False, True])
def test_the_space_speaks_without_the_checkout(published, hosted):
    space = published / "space"
    head = (space / "README.md").read_text()
    assert 'sdk: "gradio"' in head and 'app_file: "app.py"' in head
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SHAKE", "PYTHONPATH"))}
    environment |= {"GRADIO_SERVER_PORT": str(free_port())}
    if hosted:  # as on the hub, behind a proxy
        environment |= {"SPACE_ID": "someone/first-citizen", "GRADIO_SERVER_NAME": "0.0.0.0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=space, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert "speaks at" in line, line + process.stdout.read()
            address = line.split()[-1].rstrip("/")
            heard = ask(address, "First Citizen:", 20)
            connection = http.client.HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]))
            name = "someone-first-citizen.hf.space"
            connection.request(
                "GET", "/config", headers={"host": name, "origin": f"https://{name}"}
            )
            assert connection.getresponse().status == (200 if hosted else 421)
            connection.close()
        finally:
            process.terminate()
    assert "Before we proceed any further, hear me speak." in heard and "<mark" in heard


def test_the_space_needs_what_the_program_and_its_demo_need():
    names = {line.partition("==")[0].partition("[")[0] for line in requirements()}
    assert {"mlx", "mlx-lm", "tiktoken", "numpy", "gradio", "rapidfuzz"} <= names
    assert not {"torch", "pytest", "wandb"} & names


def test_a_space_can_be_written_where_gradio_is_not_installed(monkeypatch, tmp_path):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "gradio>=6.31" in requirements()
    (tmp_path / "model").mkdir()
    write_space(tmp_path / "space", tmp_path / "model", "someone/romeo", own_text=True)
    head = (tmp_path / "space" / "README.md").read_text().split("---")[1]
    assert 'sdk: "gradio"' in head and "sdk_version" not in head


def test_without_a_token_it_says_how_to_get_one(shakegpt, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    result = shakegpt("publish", "--repo", "someone/x", "--to", tmp_path / "out")
    assert result.code == 2 and "hf auth login" in result.err and "--dry-run" in result.err
    assert not (tmp_path / "out").exists()


class Hub:
    """The hub's library, with the repositories that exist: whether each is private."""

    def __init__(self, existing):
        self.existing, self.calls = existing, []

    def whoami(self):
        return {"name": "someone"}

    def repo_info(self, repo, repo_type):
        from huggingface_hub.errors import RepositoryNotFoundError

        if repo not in self.existing:
            request = httpx.Request("GET", f"https://huggingface.co/{repo}")
            raise RepositoryNotFoundError("none", response=httpx.Response(404, request=request))
        return SimpleNamespace(private=self.existing[repo])

    def create_repo(self, repo, **options):
        import huggingface_hub

        name = repo if "/" in repo else f"someone/{repo}"
        self.calls.append(("create", name, options.get("repo_type", "model")))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{name}")

    def upload_folder(self, repo_id, folder_path, repo_type="model"):
        self.calls.append(("upload", repo_id, repo_type))
        assert (folder_path / "README.md").exists()


@pytest.fixture
def hub(monkeypatch):
    """A hub on which someone is logged in and one repository exists, a public one."""
    import huggingface_hub

    api = Hub({"someone/known-demo": False})
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    return api


def test_uploads_go_through_the_hubs_own_library(published, hub):
    folders = Published(published / "model", published / "space", True)
    upload(folders, "someone/first-citizen", private=True)
    assert hub.calls == [
        ("create", "someone/first-citizen", "model"),
        ("create", "someone/first-citizen-demo", "space"),
        ("upload", "someone/first-citizen", "model"),
        ("upload", "someone/first-citizen-demo", "space"),
    ]


@pytest.mark.parametrize("repo", ["someone/known", "known"])
def test_what_is_to_be_private_does_not_go_where_all_can_read_it(
    shakegpt, published, hub, tmp_path, repo
):
    result = shakegpt("publish", "--repo", repo, "--to", tmp_path / "out", "--private")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "the space someone/known-demo exists and is public" in result.err
    folders = Published(published / "model", published / "space", True)
    with pytest.raises(ValueError, match="exists and is public"):
        upload(folders, repo, private=True)
    assert not (tmp_path / "out").exists() and not hub.calls
    hub.existing = dict.fromkeys(("someone/known", "someone/known-demo"), True)
    upload(folders, repo, private=True)
    assert [call[0] for call in hub.calls] == ["create", "create", "upload", "upload"]
