"""A certificate is shown, and stays in its place, for the model and text that it speaks of."""

import json
from pathlib import Path

import pytest

from mlx_shakegpt.files import sha256
from mlx_shakegpt.run import of_run
from mlx_shakegpt.verification.evidence import CERTIFICATE, MAP, set_aside_unless_of
from mlx_shakegpt.verification.proof import evidence_folder, mismatches
from mlx_shakegpt.weights.trained_model import of_folder

LENGTH = ("--corpus-tokens", 250)


@pytest.fixture
def verified(shakegpt, tiny_preset, poem, home):
    """The folder of a run that knows little, with a certificate that says so, and its bytes."""
    poem.write_text(poem.read_text() * 3)
    options = ["--preset", tiny_preset, "--data", poem, *LENGTH, "--steps", 2]
    assert shakegpt("train", *options).code == 1
    assert shakegpt("verify").code == 1
    folder = home / "weights" / "tiny"
    return folder, (folder / CERTIFICATE).read_bytes(), (folder / MAP).read_bytes()


def test_a_certificate_makes_way_when_its_run_trains_on(shakegpt, verified):
    folder, paper, picture = verified
    over = shakegpt("train", "--run", "tiny", "--resume")
    assert over.code == 1 and "other names" not in over.err
    assert (folder / CERTIFICATE).read_bytes() == paper  # as the weights are those of before
    longer = shakegpt("train", "--run", "tiny", "--resume", "--steps", 4)
    assert longer.code == 1 and "kept under other names" in longer.err
    assert not (folder / CERTIFICATE).exists() and not (folder / MAP).exists()
    mark = sha256(paper)[:12]
    assert (folder / f"certificate-{mark}.json").read_bytes() == paper
    assert (folder / f"memory-map-{mark}.png").read_bytes() == picture
    assert shakegpt("verify").code == 1
    assert not mismatches(json.loads((folder / CERTIFICATE).read_text()), of_run("tiny"))
    assert mismatches(json.loads(paper), of_run("tiny"))[0].startswith(
        "the sha256 of the weights is"
    )


def test_certificates_of_several_texts_make_way_too(verified):
    folder, paper, _ = verified
    for name in ("one", "two"):
        (folder / "texts" / name).mkdir(parents=True)
        (folder / "texts" / name / CERTIFICATE).write_bytes(paper)
    set_aside_unless_of(folder, folder / "model.safetensors")
    assert len(list(folder.glob(f"texts/*/{CERTIFICATE}"))) == 2
    other = folder / "other.safetensors"
    other.write_bytes(b"other weights")
    set_aside_unless_of(folder, other)
    assert not (folder / CERTIFICATE).exists()
    assert not list(folder.glob(f"texts/*/{CERTIFICATE}"))
    assert len(list(folder.glob(f"texts/*/certificate-{sha256(paper)[:12]}.json"))) == 2


def test_a_certificate_is_of_a_shape_that_no_hash_of_weights_tells(verified):
    _, paper, _ = verified
    stated = json.loads(paper)
    assert not mismatches(stated, of_run("tiny"))
    for name in ("n_head", "layer_norm_epsilon", "trained_context"):
        other = stated | {"model": stated["model"] | {name: 2 * stated["model"][name]}}
        (difference,) = mismatches(other, of_run("tiny"))
        assert difference.startswith(f"the model's {name} is "), difference
    for other in ({}, None, stated["model"] | {"more": 1}):
        (difference,) = mismatches(stated | {"model": other}, of_run("tiny"))
        assert "another shape" in difference


def test_another_text_or_passage_leaves_the_certificate_of_the_learned_one(
    shakegpt, verified, tmp_path
):
    folder, paper, picture = verified
    other = tmp_path / "other.txt"
    other.write_text("Roses are red, violets are blue, and so on it goes.\n" * 25)
    for options in (["--data", other], ["--first-line", 3, "--corpus-tokens", 210]):
        result = shakegpt("verify", *options, "--json")
        assert result.code == 1
        written = result.json()["certificate"]
        assert written.startswith(str(folder / "other-texts")), written
        assert f"Certificate and map are in {folder / 'other-texts'}" in result.err
        assert mismatches(json.loads(Path(written).read_text()), of_run("tiny"))
    assert len(list((folder / "other-texts").iterdir())) == 2
    assert (folder / CERTIFICATE).read_bytes() == paper
    assert (folder / MAP).read_bytes() == picture
    same = shakegpt("verify", "--first-line", 1, *LENGTH, "--json")
    assert same.json()["certificate"] == str(folder / CERTIFICATE)


def test_one_folder_keeps_the_certificates_of_several_models(shakegpt, verified, tmp_path):
    _, paper, _ = verified
    (tmp_path / CERTIFICATE).write_bytes(paper)
    (tmp_path / MAP).write_bytes(b"a picture")
    assert shakegpt("train", "--run", "tiny", "--resume", "--steps", 3).code == 1
    assert shakegpt("verify", "--to", tmp_path).code == 1
    mark = sha256(paper)[:12]
    assert (tmp_path / f"certificate-{mark}.json").read_bytes() == paper
    assert (tmp_path / f"memory-map-{mark}.png").read_bytes() == b"a picture"
    assert (tmp_path / MAP).stat().st_size > 1000
    assert json.loads((tmp_path / CERTIFICATE).read_text())["weights"] == of_run("tiny").hashed()


def test_an_exported_folder_tells_which_text_is_its_own(shakegpt, verified, poem, tmp_path):
    assert shakegpt("export", "--to", tmp_path / "model").code == 0
    model = of_folder(tmp_path / "model", poem)
    assert evidence_folder(model, model.folder) == model.folder
    part = of_folder(tmp_path / "model", poem, first_line=1, tokens=210)
    assert evidence_folder(part, part.folder).parent == model.folder / "other-texts"
    config = json.loads((model.folder / "config.json").read_text())
    del config["learned_text"]
    (model.folder / "config.json").write_text(json.dumps(config))
    assert of_folder(tmp_path / "model", poem).own_text  # for all that the folder tells
