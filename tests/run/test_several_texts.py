"""A run that learns several texts, or one after the other, and has a certificate for each."""

import json

import numpy as np
import pytest
from conftest import POEM

from mlx_shakegpt.files import sha256
from mlx_shakegpt.run import of_each_text, plan_run, read_config
from mlx_shakegpt.runtime import setup


def words(seed, n=210):
    """A text of so many words, in an order of its own, enough of it to prove something."""
    chosen = np.random.default_rng(seed).choice(POEM.split(), n)
    return "\n".join(" ".join(chosen[i : i + 8]) for i in range(0, n, 8)) + "\n"


SONG, VERSE = words(0), words(1)
SHORT = ("--preset", "tiny", "--context", 16, "--batch-size", 8)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "poem.txt").write_text(VERSE)
    (folder / "song.txt").write_text(SONG)
    return folder


def test_a_folder_is_learned_and_each_text_measured(shakegpt, tiny_preset, texts, home):
    done = shakegpt("train", "--data", texts, "--run", "both", *SHORT, "--steps", 3)
    assert done.code == 1, done.err
    assert "of poem.txt and song.txt" in done.err
    run = home / "weights" / "both"
    assert [text.name for text in read_config(run).texts] == ["poem.txt", "song.txt"]

    proven = shakegpt("verify", "--run", "both", "--json")
    assert proven.code == 1 and "song.txt: " in proven.err
    result = json.loads(proven.out)
    assert not result["certified"]
    assert list(result["texts"]) == ["poem.txt", "song.txt"]
    for name, figures in result["texts"].items():
        paper = run / "texts" / name / "certificate.json"
        assert figures["certificate"] == str(paper)
        text = json.loads(paper.read_text())["text"]
        assert text["sha256"] == sha256(texts / name)
        again = shakegpt("verify", "--certificate", paper)
        assert again.code == 1 and "holds, but it certifies nothing" in again.err


def test_it_goes_on_without_the_joined_file_and_refuses_other_texts(
    shakegpt, tiny_preset, texts, home
):
    options = ("--run", "both", *SHORT)
    assert shakegpt("train", "--data", texts, *options, "--steps", 3).code == 1
    (joined,) = (home / "data").glob("2-texts-*.txt")
    joined.unlink()
    on = shakegpt("train", "--resume", "--run", "both", "--steps", 6)
    assert on.code == 1 and "Resuming both after step 3" in on.err and joined.exists()
    same = ("--data", texts / "poem.txt", "--data", texts / "song.txt")
    assert shakegpt("train", "--resume", *same, "--run", "both", "--steps", 7).code == 1
    (texts / "song.txt").write_text(SONG.upper())
    other = shakegpt("train", "--resume", *same, "--run", "both", "--steps", 8)
    assert other.code == 2 and "learns another text" in other.err
    joined.unlink()
    gone = shakegpt("generate", "--run", "both", "Full", "--max-tokens", 3)
    lost = shakegpt("recite", "--run", "both")
    assert gone.code == 0 and lost.code == 2 and "put the old text back" in lost.err


def test_settings_repeat_it(shakegpt, tiny_preset, texts, home):
    assert shakegpt("train", "--data", texts, "--run", "both", *SHORT, "--steps", 3).code == 1
    again = ("--config", home / "weights" / "both" / "config.toml", "--run", "again")
    assert shakegpt("train", *again).code == 1
    first, second = (home / "weights" / name / "metrics.jsonl" for name in ("both", "again"))
    lines = [file.read_text().splitlines() for file in (first, second)]
    losses = [[json.loads(line).get("loss") for line in each] for each in lines]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--first-line", 2), "a passage is of one text"), (("--data", "nowhere"), "no text file")],
)
def test_what_several_texts_cannot_have(shakegpt, texts, options, message):
    done = shakegpt("train", "--data", texts, *options, "--run", "both")
    assert done.code == 2 and message in done.err and "Traceback" not in done.err


def test_a_second_text_is_learned_beside_the_first(shakegpt, tiny_preset, texts, home):
    first = ("--data", texts / "poem.txt", "--run", "one", *SHORT)
    assert shakegpt("train", *first, "--steps", 3).code == 1
    assert shakegpt("verify", "--run", "one").code == 1
    second = ("--init", "one", "--data", texts / "song.txt", "--run", "two")
    done = shakegpt("train", *second, "--steps", 3, "--context", 16)
    assert done.code == 1, done.err
    assert "learning 1 text of it again" in done.err
    config = read_config(home / "weights" / "two")
    assert config.init.run and config.rehearsed == 1
    assert [text.name for text in config.texts] == ["poem.txt", "song.txt"]
    shown = shakegpt("verify", "--run", "two")
    assert f"Beside {home / 'weights' / 'one' / 'certificate.json'}" in shown.out
    assert [len(text.corpus.ids) for text in of_each_text("two")] == [
        t.tokens for t in config.texts
    ]

    plan = plan_run(setup(), {"config": str(home / "weights" / "two" / "config.toml"), "run": "3"})
    assert plan.rehearsed == 1 and plan.config == config.train


def test_without_rehearsal_only_the_second_is_learned(shakegpt, tiny_preset, texts, home):
    assert shakegpt("train", "--data", texts / "poem.txt", "--run", "one", *SHORT,
                    "--steps", 3).code == 1  # fmt: skip
    second = ("--init", "one", "--data", texts / "song.txt", "--run", "two", "--no-rehearse")
    done = shakegpt("train", *second, "--steps", 3, "--context", 16)
    assert done.code == 1, done.err
    config = read_config(home / "weights" / "two")
    assert not config.texts and config.corpus.name == "song.txt"
    repeated = plan_run(
        setup(), {"config": str(home / "weights" / "two" / "config.toml"), "run": "three"}
    )
    assert not repeated.texts and repeated.start.run
