import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, tiny_training
from mlx.utils import tree_unflatten

from mlx_shakegpt import runtime
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.model.trees import flat
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.training import RunState, Step, Trainer, TrainingError
from mlx_shakegpt.training.positions import grow
from mlx_shakegpt.training.ranks import fingerprint
from mlx_shakegpt.verification.loss import Evaluation
from mlx_shakegpt.weights import CONV1D, full_tensors


def never(model, context):
    return Evaluation(nll=9.0, floor=0.0, accuracy=0.0, tokens=1, complete=True)


def trainer(ids, evaluate=never, **changes):
    return Trainer(TINY, tiny_training(**changes), ids, evaluate)


def losses(t, **how):
    return [(r.step, r.loss, r.norm, r.lr) for r in t.run(**how)]


def test_rounded_products_are_refused_where_there_are_none(ids, monkeypatch):
    monkeypatch.setattr(runtime.Runtime, "can_round", False)
    with pytest.raises(ValueError, match="use `products` float32"):
        next(trainer(ids, products="bfloat16").run())


@pytest.mark.skipif(not runtime.setup().can_round, reason="no AVX512-BF16")
@pytest.mark.slow
def test_rounded_products_train_nearly_alike_and_end_with_the_training(ids):
    shape = replace(TINY, n_embd=256, n_head=4)
    settings = {"optimizer": "muon", "batch_size": 32, "steps": 8, "lr": 1e-3, "context": 16}
    runs = {}
    for products in ("float32", "bfloat16"):
        config = tiny_training(products=products, **settings)
        runs[products] = [r.loss for r in Trainer(shape, config, ids, never).run()]
    assert runs["float32"] != runs["bfloat16"]
    assert np.allclose(runs["float32"], runs["bfloat16"], rtol=2e-2)
    x = mx.random.normal((512, 512))
    want = np.array(x, np.float64) @ np.array(x, np.float64)
    assert np.abs(np.array(x @ x) - want).max() < 1e-3


@pytest.mark.slow
def test_closed_and_full_vocabulary_are_the_same_training(ids):
    closed = trainer(ids, steps=10, weight_decay=0.1, clip=0.5)
    full = trainer(ids, steps=10, weight_decay=0.1, clip=0.5, closed_vocab=False)
    start = full_tensors(LanguageModel(closed.model, closed.vocabulary, 16))
    full.model.update(
        tree_unflatten([(k, v.T if k.endswith(CONV1D) else v) for k, v in start.items()])
    )
    full.optimizer.init(full.model.trainable_parameters())
    one, two = losses(closed), losses(full)
    assert np.allclose([x[1] for x in one], [x[1] for x in two], rtol=1e-6)
    assert np.allclose([x[2] for x in one], [x[2] for x in two], rtol=5e-5)
    expanded = full_tensors(LanguageModel(closed.model, closed.vocabulary, 16))
    for name, value in full_tensors(LanguageModel(full.model, None, 16)).items():
        difference = np.abs(np.array(value) - np.array(expanded[name]))
        # Adam divides by √v: where a gradient is all rounding, so is the update.
        assert (difference < 1e-5).mean() > 0.999, name
        assert difference.max() < 3e-3 / 10, name
    absent = np.setdiff1d(np.arange(TINY.vocab_size), ids)
    rows = np.array(full.model.wte.weight)[absent]
    assert np.abs(rows - rows[0]).max() < 1e-6


@pytest.mark.slow
def test_ten_steps_are_those_of_torch(ids):
    from transformers import GPT2Config, GPT2LMHeadModel

    t = trainer(ids, steps=10, weight_decay=0.01, closed_vocab=False)
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_head=2, n_embd=32, n_positions=64, resid_pdrop=0, embd_pdrop=0,
            attn_pdrop=0, bos_token_id=50256, eos_token_id=50256,
        )
    )  # fmt: skip
    weights = full_tensors(LanguageModel(t.model, None, 16))
    state = {f"transformer.{k}": torch.tensor(np.array(v)) for k, v in weights.items()}
    theirs.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    reference = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    batches = [t.batch(i) for i in range(10)]
    for batch, (_, loss, norm, lr) in zip(batches, losses(t), strict=True):
        x, y, w = (torch.tensor(a) for a in (batch.inputs, batch.targets, batch.weights))
        logits = theirs(x.long()).logits
        nll = torch.nn.functional.cross_entropy(
            logits.reshape(-1, 50257), y.long().reshape(-1), reduction="none"
        )
        want = (nll * w.reshape(-1)).sum() / w.sum()
        reference.zero_grad()
        want.backward()
        want_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.param_groups[0]["lr"] = lr
        reference.step()
        assert loss == pytest.approx(want.item(), abs=2e-5)
        assert norm == pytest.approx(want_norm.item(), rel=1e-3)


def test_two_runs_of_one_seed_are_equal_bit_for_bit(ids):
    assert losses(trainer(ids)) == losses(trainer(ids))
    assert losses(trainer(ids)) != losses(trainer(ids, seed=1))


def test_reading_numbers_late_changes_none_of_them(ids):
    late = losses(trainer(ids), ahead=True)
    assert late == losses(trainer(ids), ahead=False)
    settled = [r.step for r in trainer(ids).run(settle=lambda s: s == 5, ahead=True) if r.settled]
    assert settled == [5, 12]


def test_a_settled_report_can_be_asked_for(ids):
    t, settled = trainer(ids), []
    for report in t.run(ahead=True):
        settled += [report.step] * report.settled
        if report.step == 4 and not report.settled:
            t.settle_soon()
    assert settled == [5, 12]


def test_a_rate_that_follows_the_loss_is_the_same_however_late_numbers_are_read(ids):
    changes = {"steps": 60, "lr": 0.02, "hold": 1.0, "follow": 5.0, "hard": 0.6}
    at_once = losses(trainer(ids, **changes), ahead=False)
    assert losses(trainer(ids, **changes), ahead=True) == at_once
    some = losses(trainer(ids, **changes), ahead=True, settle=lambda step: step % 3 == 0)
    assert some == at_once
    assert at_once[10][3] == 0.02 and at_once[-1][3] < 0.018


def test_the_rate_follows_the_smoothed_loss_of_all_steps_but_the_last():
    state, rates = RunState(), []
    for step, loss in enumerate([8.0, 4.0, 2.0, 1.0, 0.5]):
        state.step = step
        rates.append(state.slowing(2.0))
        state.note_context_loss(loss)
    # Means of the first 1, 2 and 3 losses are above 2.
    assert rates == [1, 1, 1, 1, 1]
    for step in range(5, 205):
        state.step = step
        state.note_context_loss(0.5)
    state.step = 205
    assert state.slowing(2.0) == pytest.approx(0.25, rel=1e-2)
    assert state.slowing(0.0) == 1.0
    assert len(state.smoothed) == 2 and state.noted == 205


@pytest.mark.parametrize("changes", [{"finish": False}, {"hold": 1.0}, {"hold": 0.5}])
def test_a_run_may_end_as_soon_as_the_text_is_known_and_not_before(ids, changes):
    """On target at 20, known at 60; the whole rate, or a falling one."""

    def evaluate(model, context):
        return Evaluation(0.05, 0.0, 1.0, 399, True, 0.9, known=t.state.step >= 60)

    t = trainer(ids, evaluate, steps=200, stop="known", **changes)
    reports = list(t.run())
    assert t.state.known and t.state.reached
    assert reports[-1].step == t.state.total == 60
    assert [e["extracted"] for e in t.state.evaluations] == [0.9] * 3


def test_a_run_whose_text_is_never_known_has_not_reached_its_target(ids):
    def evaluate(model, context):
        return Evaluation(0.05, 0.0, 1.0, 399, True, 0.9, known=False)

    t = trainer(ids, evaluate, steps=60, stop="known", finish=False)
    assert list(t.run())[-1].step == 60 and not t.state.reached


def test_text_that_is_known_in_short_windows_is_then_learned_in_whole_ones(ids):
    def evaluate(model, context):
        return Evaluation(0.05, 0.0, 1.0, 399, True, 1.0, known=context == 32)

    changes = {"batch_size": 2, "context": 32, "short_context": 16, "grow": 0.9}
    t = trainer(ids, evaluate, steps=200, stop="known", finish=False, **changes)
    list(t.run())
    assert (t.state.full_at, t.state.total) == (20, 40) and t.state.known


def test_evaluations_are_as_many_epochs_apart_as_asked(ids):
    t = trainer(ids, steps=300, eval_every=8.0, finish=False)
    list(t.run())
    apart = t.curriculum.steps(8)
    assert apart > 20
    steps = [e["step"] for e in t.state.evaluations]
    assert steps == [*range(apart, 300, apart), 300]


def test_stopping_ends_after_a_settled_step(ids):
    for ahead in (True, False):
        t, reports = trainer(ids), []
        for report in t.run(ahead=ahead):
            reports.append(report)
            if report.step == 3:
                t.stop()
        assert reports[-1].settled and reports[-1].step == t.state.step < 12
        assert [r.step for r in reports] == list(range(1, t.state.step + 1))


def test_on_target_a_run_without_a_finish_is_over(ids):
    def evaluate(model, context):
        return Evaluation(0.05, 0.0, 1.0, 399, complete=True)

    t = trainer(ids, evaluate, steps=100, finish=False)
    reports = list(t.run())
    assert reports[-1].evaluation and t.state.reached
    assert reports[-1].step == t.state.total == 20  # the first evaluation


def test_on_target_windows_grow_and_then_the_rate_falls_to_its_end(ids):
    def evaluate(model, context):
        contexts.append((t.state.step, context))
        return Evaluation(0.05, 0.0, 1.0, 399, complete=True)

    contexts = []
    changes = {"batch_size": 2, "context": 32, "short_context": 16, "grow": 0.5, "hold": 0.8}
    t = trainer(ids, evaluate, steps=100, **changes)
    assert (t.state.full_at, t.state.decay_at, t.state.total) == (50, 80, 100)
    reports = list(t.run())
    assert (t.state.full_at, t.state.decay_at, t.state.total) == (20, 40, 50)
    assert contexts == [(20, 16), (40, 32), (50, 32)]
    assert t.batch(19).inputs.shape == (4, 16)
    assert t.batch(20).inputs.shape == (2, 32)
    assert reports[39].lr == reports[40].lr == 3e-3
    assert reports[-1].lr < 0.2 * 3e-3
    assert t.state.reached


def test_grown_windows_start_from_positions_that_were_trained(ids):
    changes = {"batch_size": 2, "context": 32, "short_context": 16, "grow": 0.5, "hold": 0.8}
    t = trainer(ids, steps=20, **changes)
    list(zip(range(10), t.run(), strict=False))
    before = np.array(t.model.wpe.weight)
    grow(t.model, t.optimizer, 16, 32)
    after = np.array(t.model.wpe.weight)
    assert (after[:16] == before[:16]).all() and (after[32:] == before[32:]).all()
    assert (after[16:24] == before[8:16]).all() and (after[24:32] == before[8:16]).all()


def test_an_interrupt_before_the_first_step_is_not_lost(ids):
    t = trainer(ids)
    t.stop()
    assert list(t.run()) == [] and t.state.step == 0
    assert len(list(t.run())) == 12


def test_an_estimate_on_part_of_the_text_is_not_success(ids):
    def evaluate(model, context):
        return Evaluation(0.05, 0.0, 1.0, 10, complete=False)

    t = trainer(ids, evaluate, finish=False)
    assert len(list(t.run())) == 12 and not t.state.reached


def test_numbers_that_are_not_finite_end_the_run_at_their_step(ids):
    t = trainer(ids, lr=1e30, warmup_steps=0, clip=0.0, steps=50)
    with pytest.raises(
        TrainingError, match=r"at step \d+ are not finite, with windows from tokens \d+"
    ):
        list(t.run())


@pytest.mark.slow
def test_bf16_models_have_no_float32_activations(ids):
    t = trainer(ids, dtype="bfloat16")
    x = mx.array(t.batch(0).inputs)
    assert t.model.hidden(x).dtype == t.model(x).dtype == mx.bfloat16
    result = Step(t.model, t.optimizer, 1.0, t.absent)(t.batch(0), 1e-3)
    assert result.loss.dtype == result.norm.dtype == mx.float32
    assert all(v.dtype == mx.bfloat16 for v in flat(t.model.parameters()).values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("places", [(0, 1), (3, 700), (5, 5 + 256)])
def test_ulps_that_cancel_in_one_array_still_show(ids, dtype, places):
    """Ranks compare sums of bits; one ulp up and one down, wherever, must show."""
    t = trainer(ids, dtype=dtype)
    before = fingerprint(t.model, t.optimizer)
    weight = t.model.wte.weight
    bits = np.array(weight.view(mx.uint32 if dtype == "float32" else mx.uint16))
    up, down = places
    bits.reshape(-1)[up] += 1
    bits.reshape(-1)[down] -= 1
    t.model.wte.weight = mx.array(bits).view(weight.dtype)
    after = fingerprint(t.model, t.optimizer)
    assert {name for name in before if before[name] != after[name]} == {"model.wte.weight"}


def test_a_context_over_the_models_is_refused(ids):
    with pytest.raises(ValueError, match="context of 100 is more than the model's 64"):
        trainer(ids, context=100)


def test_a_text_of_all_ids_has_no_shared_row():
    ids = np.arange(60).astype(np.int32)
    config = TINY.__class__(n_layer=1, n_head=2, n_embd=16, n_positions=32, vocab_size=60)
    t = Trainer(config, tiny_training(steps=3), ids, never)
    assert t.absent == 0 and Vocabulary.of(ids, 60).rows == 60
    full = Trainer(config, tiny_training(steps=3, closed_vocab=False), ids, never)
    assert losses(t) == losses(full)


def test_sinusoidal_positions_stay_what_they_are(ids):
    t = trainer(ids, positions="sinusoid", context=32, short_context=16, batch_size=2)
    before = np.array(t.model.wpe.weight)
    losses(t)
    assert t.state.step > t.state.full_at > 0
    assert (np.array(t.model.wpe.weight) == before).all()
    assert "wpe.weight.m" not in flat(t.optimizer.state)
    assert "wpe.weight" in full_tensors(LanguageModel(t.model, t.vocabulary, 32))


def test_an_estimate_below_the_target_ends_short_windows_and_no_run():
    config = tiny_training(steps=100, short_context=8, grow=0.5, stop="known")
    state = RunState.planned(config, 100, False)
    state.step = 20
    state.apply_stop_rule(Evaluation(config.target_loss / 2, 0, 1, 16_384, False), config)
    assert (state.full_at, state.total, state.reached) == (20, 100, False)


def test_losses_that_stand_out_are_spikes():
    state = RunState()
    usual = [1.0 + 0.01 * (i % 5) for i in range(40)]
    assert [state.note_loss(loss) for loss in usual] == [0.0] * 40
    assert state.note_loss(2.9) == 0.0
    assert state.note_loss(5.1) == pytest.approx(5.1 / 1.02)
    assert len(state.recent) == 25 and state.recent[-1] == 5.1
    calm = RunState(recent=[0.01] * 25)
    assert calm.note_loss(0.9) == 0.0  # far above the median, yet nothing that harms


@pytest.mark.parametrize("ahead", [True, False])
def test_a_run_may_end_at_its_first_batch_below_the_target(ids, ahead):
    plain = [loss for _, loss, *_ in losses(trainer(ids))]
    at = next(i for i, loss in enumerate(plain) if i > 2 and loss < min(plain[:i]))
    target = (plain[at] + min(plain[:at])) / 2
    worse = Evaluation(nll=99.0, floor=0.0, accuracy=0.0, tokens=1, complete=True)
    t = trainer(ids, lambda *_: worse, stop="batch", target_loss=target)
    reports = list(t.run(ahead=ahead))
    first = next(i for i, loss in enumerate(plain) if loss < target)
    assert t.state.total == first + 1 == reports[-1].step
    assert [r.loss for r in reports] == plain[: first + 1]
    assert reports[-1].evaluation and not t.state.reached  # the whole text is not that good


@pytest.mark.slow
def test_ten_thousand_steps_take_no_more_memory_than_a_thousand(ids):
    """In a process of its own, whose peak is its own."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from conftest import tiny_training\n"
        "import numpy as np\n"
        "from mlx_shakegpt import runtime\n"
        "from mlx_shakegpt.settings.config import ModelConfig\n"
        "from mlx_shakegpt.verification.loss import Evaluation\n"
        "from mlx_shakegpt.training import Trainer\n"
        "runtime.setup()\n"
        "ids = np.random.default_rng(1).integers(100, 150, 400).astype(np.int32)\n"
        "config = tiny_training(steps=10_000, batch_size=1, context=8, hard=0.5)\n"
        "model = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=8)\n"
        "t = Trainer(model, config, ids, lambda *_: Evaluation(9, 0, 0, 1, True))\n"
        "peaks = [r.peak_bytes for r in t.run()]\n"
        "print(len(peaks), peaks[-1] - peaks[999])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    steps, grown = map(int, done.stdout.split())
    assert steps == 10_000 and grown < 8_000_000


def blocks_of(t, first):
    """Copies of the weights of blocks from `first` on."""
    return {k: np.array(v) for k, v in flat(t.model.h[first:]).items()}


def test_blocks_that_join_later_are_the_identity_until_then(ids):
    t = trainer(ids, steps=8, first_blocks=1, zero_residual=True, deepen=1e-3)
    before = blocks_of(t, 1)
    t.evaluate = lambda model, context: Evaluation(9.0, 0.0, 0.0, 1, complete=True)
    losses(t)
    assert all(np.array_equal(before[name], now) for name, now in blocks_of(t, 1).items())
    assert t.model.depth == 1 and not t.state.deep
    rows = t.vocabulary.rows_of(ids[:16])[None]
    shallow = np.array(t.model(rows))
    t.model.depth = 2
    assert np.array_equal(shallow, np.array(t.model(rows)))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_all_blocks_are_trained_once_the_loss_is_low_enough(ids, optimizer):
    changes = {"optimizer": optimizer, "steps": 30, "zero_residual": True, "first_blocks": 1}
    never_deep, deep = trainer(ids, **changes, deepen=1e-3), trainer(ids, **changes, deepen=10.0)
    one, two = losses(never_deep), losses(deep)
    assert deep.model.depth == 2 and deep.state.deep
    same = [a == b for a, b in zip(one, two, strict=True)]
    joined = same.index(False)
    assert joined > 1 and not any(same[joined + 1 :])
    # The first step that differs has the same loss, since what joins is the identity.
    assert one[joined][1] == two[joined][1] and one[joined][2] < two[joined][2]
    start = trainer(ids, **changes, deepen=1e-3)
    moved = zip(blocks_of(start, 1).items(), blocks_of(deep, 1).values(), strict=True)
    still = {name for (name, was), now in moved if np.array_equal(was, now)}
    assert not {name for name in still if name.endswith("weight")}


def test_first_targets_weigh_less_once_the_loss_is_low_enough(ids):
    never, below = (trainer(ids, edge_weight=0.1, edge_below=x) for x in (1e-3, 10.6))
    one, two = losses(never, ahead=False), losses(below, ahead=False)
    same = [a == b for a, b in zip(one, two, strict=True)]
    began = same.index(False)
    assert began > 1 and not any(same[began:])
    assert below.state.edge_weight(below.config) == 0.1
    assert one == losses(trainer(ids))
    for how in ({"ahead": True}, {"ahead": True, "settle": lambda step: step % 3 == 0}):
        assert two == losses(trainer(ids, edge_weight=0.1, edge_below=10.6), **how)


def test_what_first_targets_weigh_less_is_in_the_loss(ids):
    """Against numpy, at the first step whose windows' first targets weigh a tenth."""
    t = trainer(ids, edge_weight=0.1, edge_below=10.6, closed_vocab=False)
    for _ in t.run(ahead=False):
        if t.state.edge_weight(t.config) < 1:
            t.stop()
    batch = t.batch(t.state.step)
    logits = np.array(t.model(batch.inputs), np.float64)
    nll = np.log(np.exp(logits).sum(-1))
    nll -= np.take_along_axis(logits, batch.targets[..., None], -1)[..., 0]
    first = (np.arange(16) < 8) & (batch.starts[:, None] > 0)
    weights = np.where(first, 0.1, 1.0) * batch.weights
    after = next(t.run())
    assert after.loss == pytest.approx((weights * nll).sum() / weights.sum(), rel=1e-5)
    assert after.loss != pytest.approx((batch.weights * nll).sum() / batch.weights.sum(), rel=1e-4)


def test_blocks_cannot_join_later_where_they_would_not_be_the_identity(ids):
    with pytest.raises(ValueError, match="only with `zero_residual`"):
        trainer(ids, first_blocks=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.slow
def test_what_is_learned_does_not_depend_on_the_place_in_the_window(ids, optimizer, dtype):
    """The same tokens elsewhere in the position table: their logits stay, nearly, where with
    weights that read positions they move several times as much."""

    def moved(positions):
        changes = {"positions": positions, "optimizer": optimizer, "dtype": dtype, "steps": 60}
        t = trainer(ids, **changes, zero_residual=True, lr=1e-2)
        first, last = (r.loss for r in list(t.run())[::59])
        assert last < 0.8 * first
        t.model.set_dtype(mx.float32)
        rows = t.vocabulary.rows_of(ids[:12])[None]
        here = np.array(t.model(rows))
        table = t.model.wpe.weight
        t.model.wpe.weight = mx.concatenate([table[30:], table[:30]])
        return t, np.abs(np.array(t.model(rows)) - here).max() / np.abs(here).max()

    t, by_content = moved("look-back")
    _, by_position = moved("sinusoid")
    # What is left is the mean of the columns of positions, which LayerNorm subtracts. By AdamW only
    # parts in ten thousand move at all, so that it counts for more.
    bound = {"muon": 1 / 5, "adamw": 1 / 3}[optimizer]
    assert by_content < bound * by_position and by_position > 1e-4, (by_content, by_position)
    columns = slice(TINY.n_embd - TINY.n_embd // TINY.n_head, None)
    for block in t.model.h:
        assert not np.array(block.mlp.c_fc.weight)[:, columns].any()
        assert not np.array(block.mlp.c_proj.weight)[columns].any()
        assert not np.array(block.attn.c_attn.weight)[2 * TINY.n_embd :, columns].any()
        assert np.array(block.attn.c_attn.weight)[: 2 * TINY.n_embd, columns].any()
    assert not np.array(t.model.wte.weight)[:, columns].any()


def test_the_initial_gain_of_the_last_layernorm_scales_the_logits(ids):
    one, three = trainer(ids), trainer(ids, logit_gain=3.0)
    rows = one.vocabulary.rows_of(ids[:16])[None]
    want = 3 * np.array(one.model(rows))
    assert np.allclose(want, np.array(three.model(rows)), rtol=1e-5, atol=1e-6)


def test_muons_rate_is_its_ratio_times_the_root_of_the_width(ids):
    t = trainer(ids, optimizer="muon", muon_ratio=0.05)
    t.optimizer.learning_rate = 1e-2
    muon, adamw = t.optimizer.optimizers
    assert float(adamw.learning_rate) == pytest.approx(1e-2)
    assert float(muon.learning_rate) == pytest.approx(1e-2 * 0.05 * TINY.n_embd**0.5)
