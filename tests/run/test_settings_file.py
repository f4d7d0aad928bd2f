"""A run's config.toml: it repeats the run, options override it, its mistakes are named."""

import json
import shutil
import tomllib
from dataclasses import fields

import pytest
from conftest import POEM, ROOT, TINY, opinionated

import mlx_shakegpt
from mlx_shakegpt import runtime
from mlx_shakegpt.run import plan_run, read_config
from mlx_shakegpt.settings.config import ModelConfig, TrainConfig
from mlx_shakegpt.settings.presets import PRESETS
from mlx_shakegpt.sharing.export import export

UNUSUAL = ["--seed", 5, "--lr", 0.002, "--beta2", 0.97, "--hard", 0.4, "--short-context", 8]
UNUSUAL += ["--context", 16, "--batch-size", 2, "--optimizer", "adamw", "--positions", "sinusoid"]
UNUSUAL += ["--weight-decay", 0.1, "--first-line", 2, "--corpus-tokens", 60, "--steps", 7]


def numbers(folder):
    """What a run's steps and evaluations measured, without the clock."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    timed = ("dt", "tokens_per_second", "peak_bytes")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


@pytest.fixture
def run(shakegpt, poem, tiny_preset, home):
    """The folder of a run with options of its own."""
    assert shakegpt("train", "--preset", tiny_preset, "--data", poem, *UNUSUAL).code == 1
    return home / "weights" / "tiny"


def plan(**settings):
    return plan_run(runtime.setup(), settings)


def test_a_run_is_repeated_bit_for_bit_from_its_file_alone(shakegpt, run, monkeypatch):
    monkeypatch.delitem(PRESETS, "tiny")
    assert shakegpt("train", "--config", run / "config.toml", "--run", "other").code == 1
    other = run.with_name("other")
    assert numbers(other) == numbers(run) and len(numbers(run)) > 7
    assert (other / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    one, two = read_config(run), read_config(other)
    assert (one.model, one.train, one.corpus) == (two.model, two.train, two.corpus)
    files = [(folder / "config.toml").read_text() for folder in (run, other)]
    assert files[1] == files[0].replace('run = "tiny"', 'run = "other"')


def test_the_file_has_every_field_and_its_help(run):
    text = (run / "config.toml").read_text()
    settings = tomllib.loads(text)
    assert {f.name for f in fields(TrainConfig)} < settings.keys()
    assert settings["model"] == TINY.to_json()
    for f in (*fields(ModelConfig), *fields(TrainConfig)):
        assert f.metadata["help"] in text


@pytest.mark.parametrize("name", ["quick", "evidence/124m", "evidence/152m"])
def test_the_config_json_of_a_published_run_repeats_it_too(name):
    folder = ROOT / "benchmarks" / name
    repeated, saved = plan(config=folder / "config.json", run="again"), read_config(folder)
    assert (repeated.model, repeated.config) == (saved.model, saved.train)
    assert (repeated.preset, repeated.recipe) == (saved.preset, saved.recipe)
    assert repeated.corpus.description == saved.corpus.description


def test_a_run_from_other_weights_is_repeated(shakegpt, poem, tmp_path, home):
    export(opinionated(32), tmp_path / "start")
    options = ["--init", tmp_path / "start", "--data", poem, "--context", 16, "--steps", 3]
    assert shakegpt("train", *options, "--run", "one").code == 1
    one = home / "weights" / "one"
    assert shakegpt("train", "--config", one / "config.toml", "--run", "two").code == 1
    assert numbers(home / "weights" / "two") == numbers(one)
    export(opinionated(16), tmp_path / "later")
    shutil.rmtree(tmp_path / "start")
    shutil.copytree(tmp_path / "later", tmp_path / "start")
    with open(tmp_path / "start" / "model.safetensors", "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    result = shakegpt("train", "--config", one / "config.toml", "--run", "three")
    assert result.code == 2 and "put the old ones back" in result.err.splitlines()[-1]


def test_options_take_the_place_of_the_files(run, tmp_path):
    file = run / "config.toml"
    same = plan(config=file, run="other")
    changed = plan(config=file, run="other", lr=0.5, seed=6)
    assert (changed.config.lr, changed.config.seed, changed.config.beta2) == (0.5, 6, 0.97)
    assert same.config.steps == 7
    longer = plan(config=file, run="other", epochs=3.0)
    assert (longer.config.epochs, longer.config.steps) == (3.0, 0)
    other = plan(config=file, run="other", recipe="constant-64", context=16)
    assert (other.recipe, other.config.lr, other.config.seed) == ("constant-64", 6e-4, 0)
    assert (other.model, other.corpus.description) == (same.model, same.corpus.description)
    assert plan(config=file, run="other", preset="quick").model == PRESETS["quick"].model


def test_another_text_brings_its_own_passage_and_a_moved_one_keeps_it(run, poem, tmp_path):
    longer = tmp_path / "longer.txt"
    longer.write_text(POEM + POEM)
    corpus = plan(config=run / "config.toml", run="other", data=str(longer)).corpus
    assert corpus.passage.first_line == 1 and len(corpus.ids) > 120
    poem.rename(tmp_path / "moved.txt")
    with pytest.raises(FileNotFoundError, match=r"the text of .* is not at .*`data`"):
        plan(config=run / "config.toml", run="other")
    moved = plan(config=run / "config.toml", run="other", data=str(tmp_path / "moved.txt"))
    assert moved.corpus.passage.first_line == 2 and len(moved.corpus.ids) == 60


def test_a_text_that_has_changed_is_refused(shakegpt, run, poem):
    poem.write_text(POEM + "\n")
    result = shakegpt("train", "--config", run / "config.toml", "--run", "other")
    assert result.code == 2 and "is not the text that the settings name" in result.err
    assert not run.with_name("other").exists()


def test_an_existing_run_is_not_repeated_over_itself_but_resumed(shakegpt, run):
    file = run / "config.toml"
    assert "go on with --resume, or choose another --run" in shakegpt("train", "--config", file).err
    assert shakegpt("train", "--config", file, "--resume").code == 1  # it was over
    result = shakegpt("train", "--config", file, "--resume", "--lr", 1)
    assert result.code == 2 and "was started with --lr 0.002" in result.err


def test_a_longer_run_says_so_in_its_file(shakegpt, run):
    assert shakegpt("train", "--resume", "--run", "tiny", "--steps", 9).code == 1
    text = (run / "config.toml").read_text()
    assert "steps = 9" in text
    assert '# Made longer; before, it was {"step": 7, "epochs": ' in text and '"steps": 7}' in text


def test_a_file_written_by_hand_has_what_it_says_and_the_recipe_the_rest(tmp_path, poem):
    (tmp_path / "mine.toml").write_text(
        'data = "poem.txt"  # beside this file\nlr = 1\n'
        "[model]\nn_layer = 1\nn_head = 2\nn_embd = 8\n"
    )
    mine = plan(config=tmp_path / "mine.toml")
    assert (mine.preset, mine.path.name, mine.recipe) == ("custom", "custom", "recite")
    assert mine.model == ModelConfig(n_layer=1, n_head=2, n_embd=8)
    assert (mine.config.lr, mine.config.optimizer) == (1, "muon")
    assert mine.corpus.path == str(poem.resolve())
    (tmp_path / "part.toml").write_text("corpus_tokens = 60\n")
    part = plan(config=tmp_path / "part.toml", data=str(poem), preset="quick")
    assert len(part.corpus.ids) == 60


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("lr = ", "is not TOML: "),
        (b"\xff\xfe", "is not TOML: "),
        ("a = " + "[" * 5000, "is not TOML: "),
        ('{"lr": 1}', "is not TOML: "),
        ("epoch = 3", "no key 'epoch'; there are batch_size, "),
        ("n_layer = 3", "no key 'n_layer'; it belongs below [model]"),
        ("lr = 'fast'", "lr is 'fast'; it must be of type float"),
        ("steps = 3.0", "steps is 3.0; it must be of type int"),
        ("jitter = 1", "jitter is 1; it must be of type bool"),
        ("lr = nan", "lr is nan; it must be a finite number"),
        ("hard = 2", "hard is 2; it must be between 0 and 1"),
        ("stop = 'never'", "stop is never; it must be one of known, text, batch"),
        ("data = 3", "data is 3; it must be some text"),
        ('init = ""', "init is ''; it must be some text"),
        ('model = "quick"', "model is 'quick'; it must be a table, [model]"),
        ("corpus_tokens = -1", "corpus_tokens is -1; it must be 0 or more"),
        ("first_line = 0", "first_line is 0; it must be a number above 0"),
        ("model = 3", "model is 3; it must be a table, [model]"),
        ("[model]\nn_layer = 3", "has other entries than expected: ['n_embd', 'n_head']"),
        ("preset = 'quick'\n[model]\nn_layer = 3", "preset has a shape of its own"),
        ("data = 'none.txt'", "is not at "),
        (None, "No such file or directory; check the path"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_and_leaves_nothing(shakegpt, tmp_path, home, content, words):
    file = tmp_path / "mine.toml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = shakegpt("train", "--config", file)
    assert result.code == 2 and words in result.err.splitlines()[-1], result.err
    assert str(file) in result.err and "Traceback" not in result.err
    assert not (home / "weights").exists()


def test_the_library_repeats_a_run(run):
    model = mlx_shakegpt.train(config=run / "config.toml", run="other")
    assert model.name == "other" and numbers(run.with_name("other")) == numbers(run)
