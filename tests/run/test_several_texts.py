"""A run that learns several texts, or one after the other, and has a certificate for each."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import POEM

from mlx_shakegpt.files import sha256
from mlx_shakegpt.run import of_each_text, of_run, plan_run, read_config, text_with
from mlx_shakegpt.run.config_file import LearnedText, RunConfig
from mlx_shakegpt.runtime import setup
from mlx_shakegpt.settings.config import ModelConfig, Passage, TrainConfig
from mlx_shakegpt.text import assets
from mlx_shakegpt.text.collection import joined
from mlx_shakegpt.text.corpus import Corpus


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


def test_texts_that_moved_are_found_again_and_noted(shakegpt, tiny_preset, texts, home, tmp_path):
    options = ("--run", "both", *SHORT)
    assert shakegpt("train", "--data", texts, *options, "--steps", 3).code == 1
    texts.rename(tmp_path / "moved")
    moved = ("--data", tmp_path / "moved")
    assert shakegpt("train", "--resume", *moved, "--run", "both", "--steps", 4).code == 1
    config = read_config(home / "weights" / "both")
    assert all(text.file.is_file() for text in config.texts)
    assert shakegpt("verify", "--run", "both").code == 1  # measured, and not known
    again = ("--config", home / "weights" / "both" / "config.toml", "--run", "again")
    assert plan_run(setup(), {"config": str(again[1]), "run": "again"}).corpus.sha256 == (
        config.corpus.sha256
    )
    (tmp_path / "moved").rename(texts)
    settings = {"config": str(again[1]), "run": "again", "data": [str(texts)]}
    assert plan_run(setup(), settings).corpus.sha256 == config.corpus.sha256
    with pytest.raises(FileNotFoundError, match="say where it is"):
        plan_run(setup(), {"config": str(again[1]), "run": "again"})


def test_a_run_that_rehearses_resumes_as_it_was_started(shakegpt, tiny_preset, texts, home):
    assert shakegpt("train", "--data", texts / "poem.txt", "--run", "one", *SHORT,
                    "--steps", 3).code == 1  # fmt: skip
    second = ("--init", "one", "--data", texts / "song.txt", "--first-line", 3, "--run", "two")
    length = ("--context", 16, "--steps", 3)
    assert shakegpt("train", *second, *length).code == 1
    (texts / "poem.txt").rename(texts / "elsewhere.txt")  # the joined file is there
    on = shakegpt("train", "--resume", "--run", "two", "--steps", 4)
    assert on.code == 1 and "Resuming two" in on.err, on.err
    (texts / "elsewhere.txt").rename(texts / "poem.txt")
    settings = ("--config", home / "weights" / "two" / "config.toml")
    for steps, options in ((5, settings), (6, second)):
        on = shakegpt("train", "--resume", *options, "--steps", steps)
        assert on.code == 1 and "Resuming two" in on.err, on.err
    for option, started in (
        (("--no-rehearse",), "--rehearse"),
        (("--first-line", 4), "--first-line 3"),
    ):
        no = shakegpt("train", "--resume", *option, "--run", "two", "--steps", 8)
        assert no.code == 2 and f"started with {started}; resume it so" in no.err, no.err


def test_a_run_resumes_with_a_folder_that_has_the_old_text_too(shakegpt, tiny_preset, texts, home):
    options = ("--data", texts / "poem.txt", "--first-line", 2, "--run", "one", *SHORT)
    assert shakegpt("train", *options, "--steps", 3).code == 1
    second = ("--init", "one", "--data", texts, "--run", "two", "--context", 16)
    refused = shakegpt("train", *second, "--steps", 3)  # as two parts of one text
    assert refused.code == 2 and "two texts have the name poem.txt" in refused.err
    whole = ("--data", texts / "poem.txt", "--run", "whole", *SHORT)
    assert shakegpt("train", *whole, "--steps", 3).code == 1
    second = ("--init", "whole", "--data", texts, "--run", "two", "--context", 16)
    assert shakegpt("train", *second, "--steps", 3).code == 1
    on = shakegpt("train", "--resume", *second, "--steps", 4)
    assert on.code == 1 and "Resuming two after step 3" in on.err, on.err


def test_one_of_a_runs_texts_by_its_file_is_what_was_learned_of_it(
    shakegpt, tiny_preset, texts, home
):
    assert shakegpt("train", "--data", texts / "poem.txt", "--run", "one", *SHORT,
                    "--steps", 3).code == 1  # fmt: skip
    second = ("--init", "one", "--data", texts / "song.txt", "--first-line", 3, "--run", "two")
    assert shakegpt("train", *second, "--context", 16, "--steps", 3).code == 1
    learned = read_config(home / "weights" / "two").texts[1]
    model = of_run("two", texts / "song.txt")
    assert model.corpus.passage == learned.passage and model.corpus.passage.first_line == 3


def test_two_parts_of_one_text_are_told_apart_by_their_files_names(
    shakegpt, tiny_preset, texts, home, tmp_path
):
    first = ("--data", texts / "poem.txt", "--corpus-tokens", 100, "--run", "one", *SHORT)
    assert shakegpt("train", *first, "--steps", 3).code == 1
    shutil.copy(texts / "poem.txt", texts / "rest.txt")
    rest = ("--init", "one", "--data", texts / "rest.txt", "--first-line", 15, "--run", "two")
    assert shakegpt("train", *rest, "--context", 16, "--steps", 3).code == 1
    for name, line in (("poem.txt", 1), ("rest.txt", 15)):
        assert of_run("two", texts / name).corpus.passage.first_line == line
    on = shakegpt("train", "--resume", *rest, "--steps", 4)
    assert on.code == 1 and "Resuming two after step 3" in on.err, on.err
    cut = of_run("two", texts / "rest.txt", tokens=40).corpus.passage
    assert (cut.first_line, cut.tokens) == (15, 40)


def test_a_text_too_short_to_be_measured_does_not_keep_the_others_from_it(
    shakegpt, tiny_preset, texts, home
):
    (texts / "a.txt").write_text("Full fathom five thy father lies;\n" * 3)
    assert shakegpt("train", "--data", texts, "--run", "all", *SHORT, "--steps", 3).code == 1
    done = shakegpt("verify", "--run", "all", "--json")
    result = json.loads(done.out)["texts"]
    assert done.code == 1 and "a.txt: the text has" in done.err
    assert "nll" not in result["a.txt"] and "nll" in result["song.txt"]


def test_a_damaged_certificate_of_before_is_left_out(shakegpt, tiny_preset, texts, home):
    assert shakegpt("train", "--data", texts / "poem.txt", "--run", "one", *SHORT,
                    "--steps", 3).code == 1  # fmt: skip
    (home / "weights" / "one" / "certificate.json").write_text("{")
    second = ("--init", "one", "--data", texts / "song.txt", "--run", "two")
    assert shakegpt("train", *second, "--context", 16, "--steps", 3).code == 1
    done = shakegpt("verify", "--run", "two")
    assert done.code == 1 and "Not compared with the certificate before" in done.err
    assert "Beside" not in done.out


def test_a_joined_file_that_was_changed_is_made_anew(texts, home):
    loaded = [Corpus.load(texts / name, Passage()) for name in ("poem.txt", "song.txt")]
    corpus = joined(loaded)
    file = next((home / "data").glob("2-texts-*.txt"))
    file.write_text("something else\n")
    assert joined(loaded).sha256 == corpus.sha256


def test_names_that_a_mac_cannot_tell_apart_are_refused(texts):
    (texts / "other").mkdir()
    (texts / "other" / "Poem.txt").write_text(SONG)
    loaded = [Corpus.load(texts / name, Passage()) for name in ("poem.txt", "other/Poem.txt")]
    with pytest.raises(ValueError, match="two texts have the name poem"):
        joined(loaded)


def test_of_several_texts_tiny_shakespeare_is_found_too(texts, home):
    path = home / "weights" / "two"
    corpus = Corpus.load(texts / "poem.txt", Passage())
    learned = LearnedText.of(corpus)
    own = replace(learned, path=None, sha256=assets.TINY_SHAKESPEARE.sha256)
    path.mkdir(parents=True)
    RunConfig(
        id="", preset="tiny", recipe="recite", init=None, model=ModelConfig(1, 1, 4),
        train=TrainConfig(), corpus=learned, tokenizer={}, versions={}, device="cpu",
        texts=(own, learned),
    ).write(path)  # fmt: skip
    assert text_with("two", own.sha256) == str(assets.TINY_SHAKESPEARE.file)
    assert text_with("two", learned.sha256) == learned.path
