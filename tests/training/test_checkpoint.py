import hashlib
import json
import math
import os
import shutil

import mlx.core as mx
import numpy as np
import pytest
from conftest import TINY, tiny_training

from mlx_shakegpt.model.trees import flat
from mlx_shakegpt.settings.config import ModelConfig
from mlx_shakegpt.training import Trainer, checkpoint
from mlx_shakegpt.training.checkpoint import MODEL, OPTIMIZER, ORDER, STATE, DamagedCheckpoint
from mlx_shakegpt.training.windows import CAP
from mlx_shakegpt.verification.loss import Evaluation
from mlx_shakegpt.weights import TRAINED_CONTEXT
from mlx_shakegpt.weights.safetensors import check_tensors, load_tensors, save_tensors


def fresh(ids, **changes):
    def evaluate(model, context):
        return Evaluation(9.0, 0.0, 0.0, 1, complete=True)

    shape = {"batch_size": 2, "context": 32, "short_context": 16, "hold": 0.6, "hard": 0.6}
    changes = shape | changes
    return Trainer(TINY, tiny_training(**changes), ids, evaluate)


def sealed(state):
    """A state file's content, with the hash that it then must have."""
    hashes = {name: value for name, value in state["sha256"].items() if name != STATE}
    text = json.dumps(state | {"sha256": hashes}, sort_keys=True)
    return state | {"sha256": hashes | {STATE: hashlib.sha256(text.encode()).hexdigest()}}


def numbers(trainer):
    return [(r.step, r.loss, r.norm, r.lr, r.epoch) for r in trainer.run()]


@pytest.fixture
def saved(ids, tmp_path):
    """A trainer stopped after 5 of 12 steps and saved, with its folder."""
    trainer = fresh(ids)
    for report in trainer.run():
        if report.step == 5:
            trainer.stop()
    checkpoint.save(tmp_path / "c", trainer, {"note": "kept"})
    return tmp_path / "c"


def stopped_and_resumed(ids, folder, stop_at, **changes):
    """The numbers of all steps of a training that stopped after one and went on from its file."""
    first = fresh(ids, **changes)
    steps = []
    for r in first.run():
        steps.append((r.step, r.loss, r.norm, r.lr, r.epoch))
        if r.step == stop_at:
            first.stop()
    path = checkpoint.save(folder, first, {})
    second = fresh(ids, **changes)
    checkpoint.restore(path, second)
    return steps + numbers(second)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop_at", [1, 6, 11])
def test_a_resumed_run_repeats_the_losses_exactly(ids, tmp_path, dtype, stop_at, optimizer):
    changes = {"dtype": dtype, "optimizer": optimizer}
    changes["positions"] = "learned" if optimizer == "adamw" else "sinusoid"
    undisturbed = numbers(fresh(ids, **changes))
    assert stopped_and_resumed(ids, tmp_path, stop_at, **changes) == undisturbed


@pytest.mark.parametrize("stop_at", [1, 3, 6, 9])
def test_a_run_whose_blocks_join_on_the_way_is_resumed_exactly(ids, tmp_path, stop_at):
    changes = {"optimizer": "muon", "positions": "sinusoid", "zero_residual": True}
    changes |= {"first_blocks": 1, "deepen": 10.6}
    whole = fresh(ids, **changes)
    undisturbed = numbers(whole)
    assert whole.state.deep
    assert stopped_and_resumed(ids, tmp_path, stop_at, **changes) == undisturbed


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(
    ("tokens", "changes"),
    [
        (90, {"grow": 0.2}),
        (60, {"batch_size": 5, "grow": 0.5}),  # several epochs a step
        (90, {"grow": 0.2, "edge_weight": 0.1, "edge_below": 9.0}),
    ],
)
def test_stops_while_any_report_is_handled_change_nothing(ids, tmp_path, tokens, changes, ahead):
    """The next batch is drawn before the state is saved, and the run was resumed before."""
    shape = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=32)
    changes = {"batch_size": 2, "context": 32, "short_context": 16, "hard": 0.6} | changes
    changes |= {"steps": 45, "lr": 0.02}

    def new():
        config = tiny_training(**changes)
        return Trainer(shape, config, ids[:tokens], lambda *_: Evaluation(9, 0, 0, 1, True))

    undisturbed, steps = numbers(new()), []
    trainer = new()
    for stop_at in (2, 9, 10, *range(17, 34), 45):
        for r in trainer.run(ahead=ahead):
            steps.append((r.step, r.loss, r.norm, r.lr, r.epoch))
            if r.step == stop_at:
                trainer.stop()
        path = checkpoint.save(tmp_path, trainer, {})
        trainer = new()
        checkpoint.restore(path, trainer)
    assert steps == undisturbed
    assert undisturbed[-1][1] < CAP - 1  # so losses differ as weights of windows
    assert trainer.state.edge_weight(trainer.config) == changes.get("edge_weight", 1.0)


def test_a_checkpoint_is_the_same_whether_the_next_batch_was_drawn_or_not(ids, tmp_path):
    """What is drawn ahead of the step is decided anew, by the same losses or by a longer plan."""
    trainer, saved = fresh(ids, steps=30, grow=0.5), []
    for report in trainer.run():
        files = [tmp_path / f"{report.step}-{when}" / ORDER for when in ("before", "after")]
        for file in files:
            file.parent.mkdir()
            save_tensors(file, trainer.curriculum.saved(trainer.state.step, trainer.state.full_at))
            if report.step < 30:
                trainer.batch(report.step)
        saved.append([file.read_bytes() for file in files])
    assert len(saved) == 30 and all(before == after for before, after in saved)


@pytest.mark.parametrize("at", [5, 6])
def test_a_run_made_longer_as_whole_windows_begin_is_as_if_planned_so(ids, tmp_path, at):
    """At step 6 of 12, windows were to be whole from there on; in the longer plan they wait."""
    short = fresh(ids, grow=0.5, hold=1.0)
    for report in short.run():
        if report.step == at:
            short.stop()
    assert short.state.full_at == 6
    path = checkpoint.save(tmp_path, short, {})
    longer = fresh(ids, grow=0.5, hold=1.0, steps=40)
    checkpoint.restore(path, longer)
    assert numbers(longer) == numbers(fresh(ids, grow=0.5, hold=1.0, steps=40))[at:]


def test_what_was_saved_beside_the_state_comes_back(ids, saved):
    path, damaged = checkpoint.newest(saved)
    assert not damaged
    trainer = fresh(ids)
    assert checkpoint.restore(path, trainer) == {"note": "kept"}
    assert trainer.state.step == 5


def test_only_the_last_checkpoints_are_kept(ids, tmp_path):
    trainer = fresh(ids)
    for report in trainer.run():
        if report.step % 3 == 0:
            checkpoint.save(tmp_path / "c", trainer, {})
    assert sorted(os.listdir(tmp_path / "c")) == ["00000009", "00000012"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, ORDER, STATE])
@pytest.mark.parametrize("damage", [os.unlink, cut, flip], ids=["missing", "cut", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(saved, name, damage):
    shutil.copytree(saved / "00000005", saved / "00000007")
    damage(saved / "00000007" / name)
    if name == STATE and damage is flip:
        state = saved / "00000007" / STATE
        state.write_text(state.read_text().replace('"step": 5', '"step": 6', 1))
    path, damaged = checkpoint.newest(saved)
    assert path.name == "00000005"
    assert len(damaged) == 1 and "00000007" in damaged[0]
    with pytest.raises(DamagedCheckpoint):
        checkpoint.check(saved / "00000007")


def test_a_step_may_be_damaged_time_after_time(saved):
    for _ in range(3):
        shutil.copytree(saved / "00000005", saved / "00000007")
        cut(saved / "00000007" / MODEL)
        checkpoint.set_aside(saved, checkpoint.newest(saved)[0])
    assert sorted(path.name for path in saved.iterdir()) == ["00000005", "damaged-00000007"]


def test_another_configuration_is_refused(ids, saved):
    with pytest.raises(ValueError, match=r"trained with lr=0\.003, not 0\.1"):
        checkpoint.restore(saved / "00000005", fresh(ids, lr=0.1))


def test_a_checkpoint_from_before_an_option_existed_is_resumed(ids, saved):
    file = saved / "00000005" / STATE
    state = json.loads(file.read_text())
    del state["train"]["optimizer"], state["model"]["layer_norm_epsilon"]
    file.write_text(json.dumps(sealed(state)))
    trainer = fresh(ids)
    checkpoint.restore(saved / "00000005", trainer)
    assert numbers(trainer) == numbers(fresh(ids))[5:]
    with pytest.raises(ValueError, match="optimizer=adamw, not muon"):
        checkpoint.restore(saved / "00000005", fresh(ids, optimizer="muon"))


def test_a_save_that_fails_leaves_the_earlier_ones_and_nothing_else(ids, saved, monkeypatch):
    trainer = fresh(ids)
    checkpoint.restore(saved / "00000005", trainer)
    trainer.state.step = 6

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(saved, trainer, {})
    assert os.listdir(saved) == ["00000005"]
    assert checkpoint.newest(saved)[0].name == "00000005"


@pytest.mark.parametrize(
    "forge",
    [
        lambda data: data[:4],
        lambda data: (10**12).to_bytes(8, "little") + data[8:],
        lambda data: data[:8] + b"[" * (len(data) - 8),
        lambda data: data.replace(b'"shape":[3,4]', b'"shape":[9,9]'),
        lambda data: data.replace(b"[0,48]", b"[8,56]"),
        lambda data: data + b"more",
    ],
)
def test_weights_whose_header_lies_are_refused_before_mlx_reads_them(tmp_path, forge):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": mx.ones((3, 4))})
    check_tensors(path)
    path.write_bytes(forge(path.read_bytes()))
    with pytest.raises(ValueError, match=r"w\.safetensors"):
        load_tensors(path)


def test_state_is_plain_json(saved):
    state = json.loads((saved / "00000005" / STATE).read_text())
    assert state["state"]["step"] == 5
    assert np.isclose(state["train"]["lr"], 3e-3)


def test_the_best_checkpoint_is_kept_beside_the_last_ones(ids, tmp_path):
    t = fresh(ids)
    for step, nll in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, None), (6, 1.5)):
        t.state.step = step
        if nll:
            t.state.evaluations.append({"step": step, "nll": nll, "complete": True})
        checkpoint.save(tmp_path / "kept", t, {})
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == [
        "00000002",
        "00000005",
        "00000006",
    ]


def test_a_run_made_longer_before_its_rate_falls_is_as_if_planned_so(ids, saved):
    longer = fresh(ids, steps=20)
    checkpoint.restore(saved / "00000005", longer)
    assert numbers(longer) == numbers(fresh(ids, steps=20))[5:]


@pytest.mark.parametrize("hold", [0.5, 1.0])
def test_a_run_made_longer_at_its_end_goes_on_with_the_longer_fall_or_none(ids, tmp_path, hold):
    short = fresh(ids, hold=hold)
    begun = numbers(short)
    path = checkpoint.save(tmp_path, short, {})
    longer = fresh(ids, hold=hold, steps=20)
    checkpoint.restore(path, longer)
    added = numbers(longer)
    assert [step for step, *_ in begun + added] == list(range(1, 21))
    fallen = [0.0] * 8 if hold == 1 else [share / 14 for share in range(6, 14)]
    peak = longer.config.lr
    expected = [peak * (1 + math.cos(math.pi * share)) / 2 for share in fallen]
    assert [lr for *_, lr, _ in added] == pytest.approx(expected)


def test_a_run_cannot_be_made_shorter(ids, saved):
    trainer = fresh(ids, steps=11)
    with pytest.raises(ValueError, match="has 12 steps, and 11 were asked for"):
        checkpoint.restore(saved / "00000005", trainer)
    assert trainer.state.step == 0


def test_what_an_earlier_save_left_half_written_goes_with_the_next(ids, saved):
    for name in (".00000005-1", ".00000009-77"):
        (saved / name).mkdir()
        (saved / name / MODEL).write_text("half")
    (saved / ".stray").write_text("of another program")
    trainer = fresh(ids)
    checkpoint.restore(saved / "00000005", trainer)
    assert checkpoint.save(saved, trainer, {"again": 1}) == saved / "00000005"
    assert sorted(os.listdir(saved)) == [".stray", "00000005"]
    assert checkpoint.check(saved / "00000005")["extra"] == {"again": 1}  # in place of the first


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_so_is_its_name(
    ids, tmp_path, monkeypatch
):
    synced = []

    def note(path):
        synced.append((path.name, sorted(os.listdir(path))))

    monkeypatch.setattr(checkpoint, "sync", note)
    checkpoint.save(tmp_path / "c", fresh(ids), {})
    files = sorted([MODEL, OPTIMIZER, ORDER, STATE])
    assert synced == [(f".00000000-{os.getpid()}", files), ("c", ["00000000"])]


def folders(path, *names):
    for name in names:
        (path / name).mkdir(parents=True)


def test_only_folders_named_by_a_step_are_checkpoints(tmp_path):
    folders(tmp_path, "00000012", "00000002", "damaged-00000013", "14x", ".00000015-3")
    (tmp_path / "00000016").write_text("a file")
    path, damaged = checkpoint.newest(tmp_path)
    lacking = [f"checkpoint {tmp_path / name} lacks {STATE}" for name in ("00000012", "00000002")]
    assert path is None and damaged == lacking
    assert checkpoint.newest(tmp_path / "none") == (None, [])


def test_all_that_is_newer_than_the_newest_sound_one_is_set_aside(tmp_path):
    folder = tmp_path / "c"
    folders(folder, "00000002", "00000005", "00000007", "00000009", "damaged-00000009")
    (folder / "damaged-00000009" / "old").touch()
    checkpoint.set_aside(folder, folder / "00000005")
    left = ["00000002", "00000005", "damaged-00000007", "damaged-00000009"]
    assert sorted(os.listdir(folder)) == left
    assert os.listdir(folder / "damaged-00000009") == []
    checkpoint.set_aside(folder, None)
    assert sorted(os.listdir(folder)) == [
        f"damaged-0000000{step}" for step in (2, 5, 7, 9)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        ([], None),
        ([(1, 0.1)], None),  # pruned
        ([(2, 3.0), (5, 2.0), (1, 0.1)], "00000005"),
        ([(2, 2.0), (5, 3.0), (9, 2.5)], "00000002"),
        ([(5, 2.0), (2, 2.0)], "00000002"),
    ],
)
def test_the_best_checkpoint_is_that_of_the_lowest_loss_of_those_there_are(
    ids, tmp_path, evaluations, best
):
    folder = tmp_path / "c"
    folders(folder, "00000002", "00000005", "00000007", "00000009")
    trainer = fresh(ids)
    trainer.state.step = 12
    trainer.state.evaluations = [{"step": step, "nll": nll} for step, nll in evaluations]
    checkpoint.save(folder, trainer, {})
    assert sorted(os.listdir(folder)) == [*([best] if best else []), "00000009", "00000012"]


def test_each_odd_setting_is_named_the_first_of_the_alphabet_first(ids, saved):
    for kind, changes in (("beta2", {"seed": 3, "beta2": 0.5}), ("seed", {"seed": 3})):
        with pytest.raises(ValueError, match=f"was trained with {kind}=") as error:
            checkpoint.restore(saved / "00000005", fresh(ids, **changes))
        assert "resume with the run's own settings" in str(error.value)
    other = fresh(ids)
    other.model.config = ModelConfig(n_layer=2, n_head=4, n_embd=32, n_positions=64)
    with pytest.raises(ValueError, match="was trained with n_head=2, not 4"):
        checkpoint.restore(saved / "00000005", other)


def rewritten(path, change):
    """A checkpoint's state file with other content, and the hash of that."""
    state = json.loads((path / STATE).read_text())
    change(state)
    (path / STATE).write_text(json.dumps(sealed(state)))


def test_a_setting_that_one_side_does_not_know_is_odd(ids, saved):
    rewritten(saved / "00000005", lambda state: state["train"].update(zeal=1))
    with pytest.raises(ValueError, match="other entries than expected"):
        checkpoint.restore(saved / "00000005", fresh(ids))


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, ORDER, STATE])
def test_no_file_is_taken_for_another(saved, name):
    path = saved / "00000005"
    state = json.loads((path / STATE).read_text())
    state["sha256"][name] = "0" * 64
    (path / STATE).write_text(json.dumps(state if name == STATE else sealed(state)))
    with pytest.raises(DamagedCheckpoint, match=r"has other (bytes|content) than") as error:
        checkpoint.check(path)
    assert name in str(error.value) and error.value.__cause__ is None


def test_a_restored_trainer_is_the_saved_one(ids, tmp_path):
    one, two = fresh(ids), fresh(ids, seed=0)
    for report in one.run():
        if report.step == 7:
            one.stop()
    checkpoint.restore(checkpoint.save(tmp_path, one, {}), two)
    assert two.state == one.state
    for tree in ("model", "optimizer"):
        mine, theirs = (flat(getattr(t, tree).state) for t in (two, one))
        assert mine.keys() == theirs.keys()
        assert all(mx.array_equal(mine[name], theirs[name]) for name in mine)
    saved = [t.curriculum.saved(7, t.state.full_at) for t in (one, two)]
    assert saved[0].keys() == saved[1].keys()
    assert all(mx.array_equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_weights_tell_the_context_of_the_last_step_that_was_done(ids):
    trainer = fresh(ids)
    contexts = [int(checkpoint.weights_of(trainer)[TRAINED_CONTEXT].item()) for _ in trainer.run()]
    short = trainer.state.full_at
    assert 0 < short < 12 and contexts == [16] * short + [32] * (12 - short)
