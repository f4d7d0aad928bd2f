"""Training that begins with a GPT-2's weights, from a folder or from the hub."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import ROOT, TINY, tiny_training

from mlx_shakegpt.run import read_config
from mlx_shakegpt.run.pretrained import pretrained
from mlx_shakegpt.training import Trainer
from mlx_shakegpt.verification.loss import Evaluation
from mlx_shakegpt.weights import full_tensors, model_from_hf, model_from_run


@pytest.fixture
def folder(tmp_path):
    """A GPT-2 of our small shape, as transformers saves it."""
    torch.manual_seed(3)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**TINY.to_json())).save_pretrained(
        tmp_path / "theirs"
    )
    return tmp_path / "theirs"


def trainer(ids, start, **changes):
    settings = {"closed_vocab": False, "lr": 1e-5} | changes
    result = Evaluation(9, 0, 0, 1, True)
    return Trainer(TINY, tiny_training(**settings), ids, lambda *_: result, start)


def test_the_first_loss_is_that_of_the_pretrained_model(ids, folder):
    t = trainer(ids, pretrained(str(folder)).load())
    batch = t.batch(0)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor(batch.inputs)).logits
    want = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.tensor(batch.targets).flatten().long(), reduction="none"
    ).numpy()
    weights = batch.weights.flatten()
    assert abs(next(t.run()).loss - (want * weights).sum() / weights.sum()) < 1e-5


def test_pretrained_positions_are_not_written_over_as_windows_grow(ids, folder):
    start = pretrained(str(folder)).load()
    t = trainer(ids, start, short_context=4, grow=0.5, lr=1e-9)
    for _ in t.run():
        pass
    assert t.state.full_at > 0
    assert np.abs(np.array(t.model.wpe.weight - start.gpt.wpe.weight)).max() < 1e-6


def test_rows_that_differ_are_not_shared(ids, folder):
    with pytest.raises(ValueError, match="rows of their own"):
        trainer(ids, pretrained(str(folder)).load(), closed_vocab=True)


def test_positions_that_the_weights_do_not_have_are_refused(shakegpt, poem, folder):
    result = shakegpt("train", "--init", folder, "--data", poem, "--positions", "sinusoid")
    assert result.code == 2 and "the initial weights have learned ones" in result.err


def test_a_run_begins_with_a_folder_and_goes_on_without_it(shakegpt, poem, folder, home):
    first = shakegpt("train", "--init", folder, "--data", poem, "--steps", 2, "--context", 16)
    assert first.code == 1 and "Beginning with" in first.err
    run = home / "weights" / "theirs"
    saved = read_config(run)
    assert saved.preset == "custom" and saved.model == TINY
    assert saved.init == pretrained(str(folder)).record
    assert not saved.train.closed_vocab and saved.train.positions == "learned"
    trained = full_tensors(model_from_run(run / "model.safetensors", TINY))
    start = full_tensors(model_from_hf(folder))
    far = [np.abs(np.array(v - start[k])).max() for k, v in trained.items()]
    assert 0 < max(far) < 0.01
    (folder / "model.safetensors").unlink()
    again = shakegpt("train", "--resume", "--init", folder, "--data", poem)
    assert again.code == 1 and "Resuming theirs after step 2" in again.err
    other = shakegpt("train", "--resume", "--run", "theirs", "--init", "elsewhere/gpt2")
    assert other.code == 2 and f"started with --init {folder}" in other.err


def test_a_start_that_has_changed_is_refused_where_it_is_needed(shakegpt, poem, folder, home):
    options = ["--init", folder, "--data", poem, "--steps", 2, "--context", 16]
    assert shakegpt("train", *options).code == 1
    run = home / "weights" / "theirs"
    shutil.rmtree(run / "checkpoints")
    (run / "model.safetensors").unlink()
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    result = shakegpt("train", "--resume", "--run", "theirs")
    assert result.code == 2 and "with which the run was started" in result.err


def test_weights_that_are_replaced_before_they_are_read_are_refused(folder):
    start = pretrained(str(folder))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="written anew since the run began"):
        start.load()


def test_a_connection_that_breaks_is_the_hubs_fault_and_a_mistake_is_ours(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    (broken,) = {base for base in HfHubHTTPError.__bases__ if base is not OSError}

    def failing(error):
        def snapshot(*_, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return pytest.raises(ValueError if isinstance(error, broken) else type(error))

    monkeypatch.chdir(tmp_path)
    with failing(broken("")) as raised:
        pretrained("someone/gpt2")
    assert "cannot be fetched from the Hugging Face Hub" in str(raised.value)
    with failing(KeyError("ours")):
        pretrained("someone/gpt2")


def test_a_preset_of_another_shape_is_refused(shakegpt, folder):
    result = shakegpt("train", "--init", folder, "--preset", "quick")
    assert result.code == 2 and "another shape than preset quick" in result.err


def test_the_hub_gives_safetensors_and_settings_only(monkeypatch, folder):
    import huggingface_hub

    requests = []

    def snapshot(source, allow_patterns):
        requests.append((source, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    start = pretrained("someone/gpt2")
    assert start.record.source == "someone/gpt2" and start.load().gpt.config == TINY
    assert not any("bin" in name or name == "*" for name in requests[0][1])


@pytest.mark.parametrize("command", [["generate", "O", "--model"], ["train", "--init"]])
def test_without_the_hub_a_hub_id_is_one_line(home, tmp_path, command):
    environment = os.environ | {"SHAKEGPT_HOME": str(home), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "cli.py", *command, "openai-community/gpt2"],
        cwd=ROOT, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "cannot be fetched from the Hugging Face Hub" in done.stderr
    assert done.stderr.count("Error: ") == 1 and "Traceback" not in done.stderr
