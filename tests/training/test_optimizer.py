import itertools
import math

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
import pytest
import torch
from conftest import TINY, tiny_training
from mlx.utils import tree_map

from mlx_shakegpt import runtime
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.trees import flat
from mlx_shakegpt.settings.presets import recipe
from mlx_shakegpt.training.optimizer import (
    SplitMuon,
    adamw_state,
    clip,
    global_norm,
    learning_rate,
    optimizer_of,
    orthogonalised,
)


def test_seed_project_schedule_gives_the_rates_of_its_log():
    config = recipe("cosine-128")
    rates = [learning_rate(s, config, config.warmup_steps, config.steps) for s in range(15001)]
    assert rates[0] == pytest.approx(3e-6) and rates[99] == pytest.approx(3e-4)
    assert f"{rates[4160]:.2e}" == "2.53e-04"
    assert rates[15000] == pytest.approx(3e-5)
    assert all(a >= b for a, b in itertools.pairwise(rates[99:]))


def test_rate_holds_and_then_falls_to_its_end():
    config = tiny_training(lr=1.0, end_lr=0.1, warmup_steps=4)
    rates = [learning_rate(s, config, 50, 100) for s in range(101)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[4:51]) == {1.0}
    assert rates[75] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert rates[100] == pytest.approx(0.1)


def test_constant_recipe_never_changes_its_rate():
    config = recipe("constant-64")
    assert {learning_rate(s, config, 1000, 1000) for s in range(1000)} == {6e-4}


def test_global_norm_is_that_of_numpy_on_a_vocabulary_sized_gradient():
    g = np.random.default_rng(0).standard_normal((50257, 64))
    want = np.linalg.norm(g)
    assert float(global_norm({"a": mx.array(g, mx.float32)})) == pytest.approx(want, rel=1e-5)
    small = clip({"a": mx.array(g, mx.float32)}, mx.array(want), 1.0)["a"]
    assert np.linalg.norm(np.array(small, np.float64)) == pytest.approx(1.0, rel=1e-5)


def test_rows_count_in_the_norm_as_often_as_they_stand_for():
    g = np.random.default_rng(0).standard_normal((3, 5))
    got = global_norm({"w": {"weight": mx.array(g)}}, {"w.weight": mx.array([1.0, 1.0, 40.0])})
    want = np.linalg.norm(np.concatenate([g[:2], np.repeat(g[2:], 40, 0)]))
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_no_clipping_where_the_limit_is_zero_or_far():
    g = {"a": mx.array([3.0, 4.0])}
    assert clip(g, mx.array(5.0), 0.0) is g
    assert clip(g, mx.array(5.0), 10.0)["a"].tolist() == [3.0, 4.0]


def test_updates_are_those_of_torch():
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(0, 0.02, (7, 5)), rng.normal(size=(30, 7, 5))
    config = tiny_training(lr=3e-3, weight_decay=0.1)
    ours = {"w": mx.array(start, mx.float32)}
    optimizer = optimizer_of(config, 32)
    optimizer.init(ours)
    theirs = torch.nn.Parameter(torch.tensor(start))
    reference = torch.optim.AdamW([theirs], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for g in gradients:
        ours = optimizer.apply_gradients({"w": mx.array(g, mx.float32)}, ours)
        theirs.grad = torch.tensor(g)
        reference.step()
    assert np.abs(np.array(ours["w"]) - theirs.detach().numpy()).max() < 2e-6


def test_bf16_weights_still_move_at_the_end_of_the_schedule():
    config = tiny_training(dtype="bfloat16", lr=3e-5)
    model = GPT(TINY, rows=300)
    model.set_dtype(mx.bfloat16)
    initialise(model, 0)
    before = {k: np.array(v.astype(mx.float32)) for k, v in flat(model.parameters()).items()}
    optimizer = optimizer_of(config, 32)
    optimizer.init(model.trainable_parameters())
    # Steady gradients: weights that do not move are those that the update rounds away.
    signs = tree_map(
        lambda p: mx.where(mx.random.normal(p.shape, key=mx.random.key(p.size)) > 0, 1.0, -1.0),
        model.trainable_parameters(),
    )
    for _ in range(100):
        optimizer.update(model, tree_map(lambda s: s.astype(mx.bfloat16), signs))
        mx.eval(model.state, optimizer.state)
    moved = {
        k: np.array(v.astype(mx.float32)) != before[k] for k, v in flat(model.parameters()).items()
    }
    total = sum(m.sum() for m in moved.values()) / sum(m.size for m in moved.values())
    assert total > 0.95
    assert all(v.dtype == mx.bfloat16 for v in flat(model.parameters()).values())
    masters = flat(optimizer.state)
    for name in ("h.0.ln_1.weight", "h.1.ln_2.weight", "ln_f.weight"):
        assert (np.array(masters[f"{name}.w"]) != 1).all()
        # A bf16 gain of 1 has neighbours at 1 + 2^-7 and 1 - 2^-8; 100 × 3e-5 rounds to the lower.
        assert moved[name][np.array(flat(signs)[name]) > 0].all()


def test_the_update_in_place_is_that_of_mlx_to_the_last_bit():
    config = tiny_training(dtype="float32", weight_decay=0.1)
    rng = np.random.default_rng(0)
    start = {"a": mx.array(rng.normal(size=(7, 33)), mx.float32)}
    ours, theirs = (
        optimizer_of(config, 32),
        optim.AdamW(config.lr, [config.beta1, config.beta2], config.eps, config.weight_decay, True),
    )
    mine, other = dict(start), dict(start)
    ours.init(mine)
    for _ in range(5):
        gradient = {"a": mx.array(rng.normal(size=(7, 33)), mx.float32)}
        mine, other = ours.apply_gradients(gradient, mine), theirs.apply_gradients(gradient, other)
        assert mx.array_equal(mine["a"], other["a"])
    assert mx.array_equal(ours.state["a"]["v"], theirs.state["a"]["v"])


@pytest.mark.parametrize("shape", [(32, 32), (96, 32), (128, 32), (32, 128)])
def test_muon_is_that_of_torch_with_q_k_and_v_apart(shape):
    rng = np.random.default_rng(0)
    parts = 3 if shape[0] == 3 * shape[1] else 1
    start = rng.normal(0, 0.02, shape)
    ours = {"w": mx.array(start, mx.float32)}
    optimizer = SplitMuon(0.02, weight_decay=0.0)
    optimizer.init(ours)
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in np.split(start, parts)]
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, momentum=0.95)
    for _ in range(5):
        g = rng.normal(size=shape)
        ours = optimizer.apply_gradients({"w": mx.array(g, mx.float32)}, ours)
        for parameter, part in zip(theirs, np.split(g, parts), strict=True):
            parameter.grad = torch.tensor(part)
        reference.step()
    moved = np.array(ours["w"]) - start
    wanted = np.concatenate([p.detach().numpy() for p in theirs]) - start
    # torch's Newton-Schulz steps are in bf16.
    assert np.linalg.norm(moved - wanted) < 0.03 * np.linalg.norm(wanted)


@pytest.mark.parametrize("shape", [(40, 40), (40, 60), (160, 40), (40, 160)])
def test_orthogonalised_is_newton_schulz_in_float64(shape):
    """Also for singular values that span four powers of ten."""
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, min(shape))))[0] for n in shape)
    matrix = left * 10.0 ** np.linspace(0, -4, min(shape)) @ right.T
    want = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = want @ want.T
        want = 3.4445 * want - 4.7750 * gram @ want + 2.0315 * gram @ gram @ want
    got = np.array(orthogonalised(mx.array(matrix.astype(np.float32))))
    assert np.linalg.norm(got - want) < 2e-3 * np.linalg.norm(want)
    plain = np.array(orthogonalised(mx.array(matrix.astype(np.float32)), exact=False))
    assert np.linalg.norm(plain - want) < 2e-3 * np.linalg.norm(want)
    mlx = optim.Muon(0.1, weight_decay=0.0).apply_gradients(
        {"w": mx.array(matrix)}, {"w": mx.zeros(shape)}
    )
    ours = SplitMuon(0.1, weight_decay=0.0).apply_gradients(
        {"w": mx.array(matrix)}, {"w": mx.zeros(shape)}
    )
    assert mx.allclose(mlx["w"], ours["w"], rtol=0, atol=1e-4)


@pytest.mark.skipif(not runtime.setup().can_round, reason="no AVX512-BF16")
@pytest.mark.parametrize("shape", [(512, 512), (512, 2048)])
def test_rounded_products_leave_an_update_nearly_orthogonal(shape):
    """As they do not in the quicker form, which squares the condition."""
    rng = np.random.default_rng(0)
    low = rng.normal(size=(shape[0], 30)) @ rng.normal(size=(30, shape[1]))
    matrix = mx.array((low + 0.3 * rng.normal(size=shape)).astype(np.float32))
    exact = np.array(orthogonalised(matrix))
    with runtime.products_of("bfloat16"):
        rounded = np.array(orthogonalised(matrix, exact=False))
    assert np.linalg.norm(rounded - exact) < 0.08 * np.linalg.norm(exact)


def test_muon_uses_it(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "mlx_shakegpt.training.optimizer.orthogonalised",
        lambda x, n, exact: calls.append((n, exact)) or x,
    )
    SplitMuon(0.1).apply_gradients({"w": mx.ones((4, 4))}, {"w": mx.ones((4, 4))})
    assert calls == [(5, True)]


def test_muon_moves_matrices_of_blocks_and_adamw_the_rest():
    config = tiny_training(dtype="float32", optimizer="muon")
    model = GPT(TINY, rows=300)
    initialise(model, 0)
    optimizer = optimizer_of(config, TINY.n_embd)
    optimizer.init(model.trainable_parameters())
    muon, adamw = optimizer.optimizers
    own = {name.rpartition(".")[0] for name in flat(muon.state) if name.endswith(".v")}
    kinds = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert own == {f"h.{i}.{kind}.weight" for i in range(TINY.n_layer) for kind in kinds}
    rest = {name.rpartition(".")[0] for name in flat(adamw.state) if name.endswith(".m")}
    assert rest == set(flat(model.parameters())) - own
    assert adamw_state(optimizer) is adamw.state
    optimizer.learning_rate = 1e-3
    assert float(adamw.learning_rate) == pytest.approx(1e-3)
    assert float(muon.learning_rate) == pytest.approx(0.2e-3 * TINY.n_embd**0.5)


def test_vectors_laid_end_to_end_have_the_same_norm():
    rng = np.random.default_rng(0)
    shapes = {"a": {"weight": (40, 30), "bias": (40,)}, "b": (7,), "c": (1,), "d": (3, 3)}
    gradients = tree_map(
        lambda shape: mx.array(rng.normal(size=shape), mx.bfloat16),
        shapes, is_leaf=lambda node: isinstance(node, tuple),
    )  # fmt: skip
    one, other = (float(global_norm(gradients, joined=joined)) for joined in (False, True))
    assert one == pytest.approx(other, rel=1e-6)
    every = np.concatenate(
        [np.array(g.astype(mx.float32)).ravel() for g in flat(gradients).values()]
    )
    assert other == pytest.approx(np.linalg.norm(every.astype(np.float64)), rel=1e-6)
