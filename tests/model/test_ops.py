"""The CPU's formulas against float64."""

import math

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlx_shakegpt.model import ops
from mlx_shakegpt.model.ops.cpu import formulas


def gelu64(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_gelu_and_its_gradient_are_those_of_float64():
    x = np.linspace(-12, 12, 40_001)
    got, (slope,) = mx.vjp(ops.gelu, [mx.array(x, mx.float32)], [mx.ones(x.shape)])
    x64 = x.astype(np.float32).astype(np.float64)
    assert np.abs(np.array(got[0]) - gelu64(x64)).max() < 2e-6
    t = torch.tensor(x64, requires_grad=True)
    torch.nn.functional.gelu(t, approximate="tanh").sum().backward()
    assert np.abs(np.array(slope) - t.grad.numpy()).max() < 5e-6


def test_gelu_and_its_gradient_are_flat_far_below_0_and_straight_far_above():
    far = mx.array([*np.geomspace(5.5, 1e30, 300), np.inf], mx.float32)
    (below, above), slopes = mx.vjp(
        lambda *x: [ops.gelu(part) for part in x], [-far, far], [mx.ones(far.shape)] * 2
    )
    assert np.abs(np.array(below)).max() < 1e-7
    assert np.allclose(np.array(above), np.array(far), rtol=2e-7, atol=0)
    for slope, want in zip(slopes, (0, 1), strict=True):
        assert np.abs(np.array(slope) - want).max() < 2e-6
    assert math.isnan(ops.gelu(mx.array(math.nan)).item())


def test_exp_is_exact_where_it_matters():
    x = np.linspace(-80, 10.6, 100_001).astype(np.float32)
    got = np.array(formulas.exp(mx.array(x)), np.float64)
    want = np.exp(x.astype(np.float64))
    assert np.abs(got - want)[x <= 0].max() < 8e-7
    assert np.abs(got / want - 1)[x > -20].max() < 1e-5
    assert float(formulas.exp(mx.array([[-88.0, -1e30]])).max()) == 0


@pytest.mark.parametrize(("queries", "keys"), [(16, 16), (1, 16), (5, 9), (300, 300), (130, 150)])
def test_attention_and_its_gradients_are_those_of_torch(queries, keys):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 3, queries, 8))
    k, v = rng.normal(size=(2, 2, 3, keys, 8))
    g = rng.normal(size=(2, queries, 24))
    got, gradients = mx.vjp(
        lambda *a: ops.attention(*a, "causal"),
        [mx.array(a, mx.float32) for a in (q, k, v)],
        [mx.array(g, mx.float32)],
    )
    tq, tk, tv = (torch.tensor(a, requires_grad=True) for a in (q, k, v))
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    want = torch.nn.functional.scaled_dot_product_attention(tq, tk, tv, attn_mask=mask)
    want = want.transpose(1, 2).flatten(2)
    want.backward(torch.tensor(g))
    assert np.abs(np.array(got[0]) - want.detach().numpy()).max() < 2e-6
    for ours, theirs in zip(gradients, (tq, tk, tv), strict=True):
        assert np.abs(np.array(ours) - theirs.grad.numpy()).max() < 5e-6


def test_layer_norm_and_its_gradients_are_those_of_torch():
    rng = np.random.default_rng(0)
    x, g = rng.normal(3, 2, (2, 5, 7, 48))
    w, b = rng.normal(size=(2, 48))
    got, gradients = mx.vjp(
        lambda *a: ops.layer_norm(*a, 1e-5),
        [mx.array(a, mx.float32) for a in (x, w, b)],
        [mx.array(g, mx.float32)],
    )
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    want = torch.nn.functional.layer_norm(tx, (48,), tw, tb, 1e-5)
    want.backward(torch.tensor(g))
    assert np.abs(np.array(got[0]) - want.detach().numpy()).max() < 5e-6
    for ours, theirs in zip(gradients, (tx, tw, tb), strict=True):
        assert np.abs(np.array(ours) - theirs.grad.numpy()).max() < 2e-5


def test_a_fused_layer_norm_has_the_gradients_of_its_parts():
    rng = np.random.default_rng(0)
    x, scale, shift = rng.normal(3, 2, (2, 7, 48)), *rng.normal(size=(2, 48))
    weight, bias, g = rng.normal(size=(32, 48)), rng.normal(size=32), rng.normal(size=(2, 7, 32))
    arrays = [mx.array(a, mx.float32) for a in (x, scale, shift, weight, bias)]
    got = mx.vjp(
        lambda x, s, t, w, b: ops.norm_linear(x, s, t, 1e-5, w, b),
        arrays,
        [mx.array(g, mx.float32)],
    )
    want = mx.vjp(
        lambda x, s, t, w, b: ops.linear(ops.layer_norm(x, s, t, 1e-5), w, b),
        arrays,
        [mx.array(g, mx.float32)],
    )
    for ours, theirs in zip((*got[0], *got[1]), (*want[0], *want[1]), strict=True):
        assert float(mx.abs(ours - theirs).max()) < 1e-5


def test_the_head_and_its_loss_in_parts_are_those_of_torch():
    rng = np.random.default_rng(0)
    states, weight = rng.normal(size=(700, 16)), rng.normal(size=(40, 16))
    targets, shares = rng.integers(0, 39, 700), rng.uniform(0, 1, 700)
    absent = 38_551
    got, gradients = mx.vjp(
        lambda s, w: ops.head_loss(s, w, mx.array(targets), mx.array(shares, mx.float32), absent),
        [mx.array(a, mx.float32) for a in (states, weight)],
        [mx.array(2.0), mx.zeros(700)],
    )
    ts, tw = (torch.tensor(a, requires_grad=True) for a in (states, weight))
    more = torch.zeros(40, dtype=torch.float64)
    more[-1] = math.log(absent)
    nll = torch.nn.functional.cross_entropy(
        ts @ tw.T + more, torch.tensor(targets), reduction="none"
    )
    want = (nll * torch.tensor(shares)).sum()
    (2 * want).backward()
    assert abs(float(got[0]) / want.item() - 1) < 2e-6
    assert np.abs(np.array(got[1]) - nll.detach().numpy()).max() < 1e-5
    for ours, theirs in zip(gradients, (ts, tw), strict=True):
        assert np.abs(np.array(ours) - theirs.grad.numpy()).max() < 1e-4


@pytest.mark.parametrize("formula", ["ours", "MLX's, fused on a GPU"])
@pytest.mark.parametrize("absent", [1, 38_551])
def test_cross_entropy_counts_the_shared_row_as_often_as_it_stands_for(
    absent, formula, monkeypatch
):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (40, 30))
    targets = np.append(rng.integers(0, 30, 39), 29)
    g = rng.normal(size=40)
    if formula != "ours":
        monkeypatch.setattr(ops, "_on_cpu", lambda x: False)
    got, (gradient, *_) = mx.vjp(
        lambda a: ops.cross_entropy(a, mx.array(targets), absent),
        [mx.array(logits, mx.float32)],
        [mx.array(g, mx.float32)],
    )
    closed = torch.tensor(logits, requires_grad=True)
    full = torch.cat([closed, closed[:, -1:].expand(-1, absent - 1)], 1)
    want = torch.nn.functional.cross_entropy(full, torch.tensor(targets), reduction="none")
    want.backward(torch.tensor(g))
    assert np.abs(np.array(got[0]) - want.detach().numpy()).max() < 1e-5
    assert np.abs(np.array(gradient) - closed.grad.numpy()).max() < 5e-6


def test_gelu_linear_is_linear_of_gelu():
    rng = np.random.default_rng(0)
    arrays = [
        mx.array(a, mx.float32)
        for a in (rng.normal(0, 2, (3, 4, 8)), *rng.normal(size=(1, 5, 8)), rng.normal(size=5))
    ]
    g = mx.array(rng.normal(size=(3, 4, 5)), mx.float32)
    got = mx.vjp(ops.gelu_linear, arrays, [g])
    want = mx.vjp(lambda x, w, b: ops.linear(ops.gelu(x), w, b), arrays, [g])
    for ours, theirs in zip(got[0] + got[1], want[0] + want[1], strict=True):
        assert mx.array_equal(ours, theirs)


def test_linear_and_its_gradients_are_plain_products():
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(3, 4, 6)), rng.normal(size=(5, 6)), rng.normal(size=5)
    g = rng.normal(size=(3, 4, 5))
    got, (dx, dw, db) = mx.vjp(
        ops.linear, [mx.array(a, mx.float32) for a in (x, w, b)], [mx.array(g, mx.float32)]
    )
    assert np.allclose(np.array(got[0]), x @ w.T + b, atol=1e-5)
    assert np.allclose(np.array(dx), g @ w, atol=1e-5)
    assert np.allclose(np.array(dw), np.einsum("bti,btj->ij", g, x), atol=1e-5)
    assert np.allclose(np.array(db), g.sum((0, 1)), atol=1e-5)


def test_a_huge_score_that_is_not_seen_changes_nothing():
    k = np.zeros((1, 1, 4, 2))
    k[0, 0, :, 0] = [1.0, 4.0, -1.0, 900.0]
    q = np.zeros((1, 1, 4, 2))
    q[..., 0] = math.sqrt(2)
    v = np.eye(4)[None, None]  # so that what comes out is the weights themselves
    got = np.array(ops.attention(*(mx.array(a, mx.float32) for a in (q, k, v)), "causal"))[0]
    for row in range(3):
        p = np.exp(k[0, 0, : row + 1, 0] - 4)
        assert np.abs(got[row, : row + 1] - p / p.sum()).max() < 2e-6
        assert (got[row, row + 1 :] == 0).all()


def test_heads_are_split_as_a_reshape_would():
    rng = np.random.default_rng(0)
    qkv, g = rng.normal(size=(2, 2, 5, 24))
    parts = g.reshape(2, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    got, (dx,) = mx.vjp(
        lambda x: ops.split_heads(x, 2),
        [mx.array(qkv, mx.float32)],
        [mx.array(p, mx.float32) for p in parts],
    )
    want = qkv.astype(np.float32).reshape(2, 5, 3, 2, 4).transpose(2, 0, 3, 1, 4)
    assert all((np.array(a) == b).all() for a, b in zip(got, want, strict=True))
    assert (np.array(dx) == g.astype(np.float32)).all()
