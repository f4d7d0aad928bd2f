"""The library's door: its names, its types, its examples and its pages."""

import dataclasses
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
from conftest import POEM, ROOT

import mlx_shakegpt
from mlx_shakegpt.run import find_run
from mlx_shakegpt.settings.config import TrainConfig, VerifyConfig
from mlx_shakegpt.settings.keywords import TrainSettings
from mlx_shakegpt.settings.sampling import Sampling
from mlx_shakegpt.training import StepReport


def example(name):
    """An example's module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_training_loading_and_speaking_are_one_line_each(poem, tiny_preset):
    reports = []
    settings = {"preset": tiny_preset, "run": "p", "steps": 4, "context": 32}
    model = mlx_shakegpt.train(poem, on_step=reports.append, **settings)
    assert [type(report) for report in reports] == [StepReport] * 4
    assert (model.name, model.corpus.name) == ("p", "poem.txt")
    again = mlx_shakegpt.load("p")
    assert np.array_equal(again.corpus.ids, model.corpus.ids)
    spoken = "".join(mlx_shakegpt.generate(again, "From fairest", 12))
    assert spoken == "".join(mlx_shakegpt.generate(model, "From fairest", 12, lookup=False))
    assert isinstance(model.language_model.gpt, mlx_shakegpt.GPT)
    with pytest.raises(ValueError, match="tokens; 132 or more"):
        mlx_shakegpt.verify(model)
    for again in (False, True):
        with pytest.raises(ValueError, match="no setting 'epoch'; there are batch_size, "):
            mlx_shakegpt.train(poem, resume=again, epoch=5, **settings)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlx_shakegpt.nothing


@pytest.mark.parametrize(
    ("function", "settings"),
    [(mlx_shakegpt.generate, Sampling), (mlx_shakegpt.verify, VerifyConfig)],
)
def test_signatures_and_docstrings_have_every_setting(function, settings):
    parameters = inspect.signature(function).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert own == {f.name: f.default for f in dataclasses.fields(settings)}
    for name in own:
        assert f"        {name}: " in function.__doc__


def test_train_takes_every_field_of_its_configuration():
    assert get_type_hints(TrainSettings) == get_type_hints(TrainConfig)


def test_a_plain_name_is_a_runs_and_a_path_a_folders(poem, tiny_preset, tmp_path, monkeypatch):
    mlx_shakegpt.train(poem, preset=tiny_preset, run="p", steps=1, context=32)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    assert mlx_shakegpt.load("p").folder.parent.name == "weights"
    for folder in ("./p", Path("p"), str(tmp_path / "p")):
        with pytest.raises(
            FileNotFoundError, match=r"config\.json"
        ):  # it looks in the empty folder
            mlx_shakegpt.load(folder)
    (tmp_path / "q").mkdir()
    with pytest.raises(ValueError, match="no run 'q'"):
        mlx_shakegpt.load("q")


def test_the_poem_example_learns_and_says_it(tmp_path, capsys):
    (tmp_path / "poem.txt").write_text(POEM)
    example("learn_a_poem").main(str(tmp_path / "poem.txt"))
    assert capsys.readouterr().out.startswith(POEM[:150])


def test_the_watching_example_ends_early_and_can_be_resumed(capsys):
    module = example("watch_a_training")
    module.main(6)
    out = capsys.readouterr().out
    assert "   6 " in out and "   7 " not in out
    assert (find_run("watched") / "checkpoints" / "00000005").is_dir()


def test_the_checking_example_measures_a_folder(known, tmp_path, capsys):
    from mlx_shakegpt.sharing.export import export
    from mlx_shakegpt.text.tokenizer import decode

    export(known.language_model, tmp_path / "model")
    (tmp_path / "text.txt").write_text(decode(known.ids.tolist()))
    example("check_a_model").main(str(tmp_path / "model"), str(tmp_path / "text.txt"))
    out = capsys.readouterr().out
    assert "em@32,32: 1.000" in out and out.rstrip().endswith("certified")


def test_the_pages_are_built_from_the_docstrings(tmp_path):
    command = [sys.executable, "-m", "pdoc", "mlx_shakegpt.api", "mlx_shakegpt.model.gpt"]
    command += ["-o", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "mlx_shakegpt" / "api.html").read_text()
    assert "Measures how well a model knows its text" in page


@pytest.mark.parametrize(
    ("data", "message"), [("", "is empty"), (["", "poem.txt"], "is empty"), ([], "names no text")]
)
def test_a_text_without_a_name_is_not_tiny_shakespeare(home, data, message):
    with pytest.raises(ValueError, match=message):
        mlx_shakegpt.train(data, run="own", preset="quick")
    assert not (home / "weights" / "own").exists()
