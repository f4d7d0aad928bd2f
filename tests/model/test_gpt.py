import mlx.core as mx
import numpy as np
import pytest
import torch
from conftest import TINY, tiny_training
from mlx import nn
from mlx.utils import tree_unflatten

from mlx_shakegpt.generation.batched import Reader
from mlx_shakegpt.generation.decoding import stream
from mlx_shakegpt.generation.window import prompt_cache
from mlx_shakegpt.model import ops
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import INIT_STD, initialise, sinusoids
from mlx_shakegpt.model.language_model import LanguageModel, fill
from mlx_shakegpt.model.trees import flat
from mlx_shakegpt.settings.config import ModelConfig
from mlx_shakegpt.text.vocabulary import Vocabulary
from mlx_shakegpt.training import Trainer
from mlx_shakegpt.verification.loss import window_scores
from mlx_shakegpt.weights import CONV1D


def seeded(config, seed=0, rows=None):
    model = GPT(config, rows)
    initialise(model, seed)
    return model


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [
        ((2, 4, 64, 32), 32),
        ((3, 2, 96, 128), 100),
        pytest.param((1, 12, 768, 1024), 64, marks=pytest.mark.slow),
        pytest.param((12, 12, 768, 1024), 24, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_logits_are_those_of_hugging_face(shape, tokens):
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, heads, width, positions = shape
    theirs = GPT2LMHeadModel(
        GPT2Config(
            n_layer=layers, n_head=heads, n_embd=width, n_positions=positions,
            bos_token_id=50256, eos_token_id=50256,
        )
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    model = GPT(ModelConfig(n_layer=layers, n_head=heads, n_embd=width, n_positions=positions))
    weights = {}
    for name, value in theirs.transformer.state_dict().items():
        weights[name] = mx.array((value.T if name.endswith(CONV1D) else value).numpy())
    assert weights.keys() == flat(model.parameters()).keys()
    model.update(tree_unflatten(list(weights.items())))
    ids = np.random.default_rng(0).integers(0, 50257, (2, tokens))
    with torch.no_grad():
        want = theirs(torch.tensor(ids)).logits.numpy()
    assert np.abs(np.array(model(mx.array(ids))) - want).max() < 1e-4


def test_no_gradient_flows_from_a_position_to_a_later_one():
    model = seeded(TINY)
    x = 0.02 * mx.random.normal((1, 12, TINY.n_embd), key=mx.random.key(3))

    def state_at(x, position):
        for block in model.h:
            x = block(x, "causal", None)
        return model.ln_f(x)[0, position].square().sum()

    for position in range(12):
        g = np.abs(np.array(mx.grad(state_at)(x, position)))[0].sum(-1)
        assert (g[position + 1 :] == 0).all()
        assert (g[: position + 1] > 0).all()


def test_cached_logits_are_those_of_one_pass():
    model = seeded(TINY)
    ids = mx.random.randint(0, 50257, (1, 20), key=mx.random.key(1))
    whole = np.array(model(ids))
    cache = prompt_cache(LanguageModel(model, None, 64))
    parts = [model(ids[:, a:b], cache) for a, b in ((0, 7), (7, 8), (8, 15), (15, 20))]
    assert np.abs(np.concatenate([np.array(p) for p in parts], 1) - whole).max() < 1e-5


def test_positions_beyond_the_table_are_refused():
    model = seeded(TINY)
    with pytest.raises(ValueError, match="65 positions are more than the model's 64"):
        model(mx.zeros((1, 65), mx.int32))
    cache = prompt_cache(LanguageModel(model, None, 64))
    mx.eval(model(mx.zeros((1, 60), mx.int32), cache))
    with pytest.raises(ValueError, match="positions are more"):
        model(mx.zeros((1, 5), mx.int32), cache)


def test_models_that_are_made_leave_nothing_behind_in_the_random_state(tmp_path):
    def graph():
        mx.export_to_dot(str(tmp_path / "graph"), mx.random.state[0])
        return (tmp_path / "graph").read_text()

    GPT(TINY)
    before = graph().count("\n")
    for _ in range(5):
        GPT(TINY)
    assert graph().count("\n") == before


def test_initial_weights_are_those_of_gpt2():
    config = ModelConfig(n_layer=8, n_head=2, n_embd=128, n_positions=64)
    weights = {k: np.array(v) for k, v in flat(seeded(config).parameters()).items()}
    assert weights["wte.weight"].std() == pytest.approx(0.02, rel=0.01)
    assert weights["h.3.mlp.c_fc.weight"].std() == pytest.approx(0.02, rel=0.02)
    assert weights["h.3.mlp.c_proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.02)
    assert weights["h.0.attn.c_proj.weight"].std() == pytest.approx(0.02 / 4, rel=0.02)
    assert not any(v.any() for k, v in weights.items() if k.endswith("bias"))
    assert all((v == 1).all() for k, v in weights.items() if "ln_" in k and "weight" in k)
    model = seeded(config)
    initialise(model, 0, zero_residual=True)
    zero = {k: not np.array(v).any() for k, v in flat(model.parameters()).items()}
    assert all(zero[k] == k.endswith(("c_proj.weight", "bias")) for k in zero)


@pytest.mark.parametrize("bad", [-1, 50257, 2**40])
def test_ids_outside_the_vocabulary_never_reach_mlx(bad):
    model = seeded(TINY)
    language_models = (
        LanguageModel(model, None, 64),
        LanguageModel(model, Vocabulary.of(np.array([5, 7])), 64),
    )
    refused = [
        lambda: model(np.array([[5, bad]])),
        lambda: model(mx.array(np.array([[5, bad]]))),
        lambda: window_scores(model, np.array([[5, 5, bad]]), 1),
        lambda: window_scores(model, np.array([[bad, 5, 5]]), 1, language_models[1].vocabulary),
        lambda: Reader(language_models[0]).read(np.array([[bad]]), np.array([5])),
        lambda: Trainer(TINY, tiny_training(), np.array([5, bad] * 20), None),
        lambda: Trainer(TINY, tiny_training(closed_vocab=False), np.array([5, bad] * 20), None),
        *(
            lambda language_model=language_model: next(stream(language_model, [5, bad], 2))
            for language_model in language_models
        ),
    ]
    for refuse in refused:
        with pytest.raises(ValueError, match=f"token id {bad} is outside"):
            refuse()


def test_a_model_is_not_made_of_whole_numbers(tmp_path):
    tensors = flat(seeded(TINY).parameters())
    tensors["ln_f.bias"] = mx.zeros(TINY.n_embd, mx.int32)
    with pytest.raises(ValueError, match=r"ln_f\.bias is mlx\.core\.int32"):
        fill(seeded(TINY), tensors, tmp_path)


def test_a_compiled_model_takes_ids_that_were_checked():
    model = seeded(TINY)
    ids = model.checked_ids(np.array([[5, 6, 7]]))
    compiled = mx.compile(model)
    assert np.allclose(np.array(compiled(ids)), np.array(model(ids)), atol=1e-5)


def test_the_graph_of_a_bf16_model_has_no_float32_activation(monkeypatch):
    """Forward and backward, walked; fused operations, which keep float32 inside, are stood in for.

    One float32 weight or constant would promote all that follows, at twice the memory.
    """
    monkeypatch.setattr(ops, "_on_cpu", lambda _: False)
    monkeypatch.setattr(ops.cpu, "linear", lambda x, w: x @ w.T)
    monkeypatch.setattr(ops.cpu, "affine", lambda x, w, b: mx.addmm(b, x, w.T))
    monkeypatch.setattr(mx.fast, "layer_norm", lambda x, w, b, _: x * w + b)
    monkeypatch.setattr(
        mx.fast,
        "scaled_dot_product_attention",
        lambda q, k, v, scale, mask: (q @ k.swapaxes(-1, -2) * scale) @ v,
    )
    model = GPT(TINY)
    model.set_dtype(mx.bfloat16)
    initialise(model, 0)

    def gradients(ids):
        return list(flat(nn.value_and_grad(model, lambda x: model(x).sum())(ids)[1]).values())

    def float32_in_the_graph():
        graph = []
        mx.export_function(graph.append, gradients, mx.zeros((2, 16), mx.int32))
        steps = [step for step in graph if step["type"] == "primitive"]
        assert len(steps) > 100
        return [s["name"] for s in steps if any(o[2] == mx.float32 for o in s["outputs"])]

    assert not float32_in_the_graph()
    model.h[0].mlp.c_fc.bias = model.h[0].mlp.c_fc.bias.astype(mx.float32)
    assert float32_in_the_graph()


def test_sinusoids_are_those_of_the_paper():
    got = np.array(sinusoids(64, 32)) / (INIT_STD * 2**0.5)
    for column in range(16):
        angle = np.arange(64) / 10_000 ** (2 * column / 32)
        assert got[:, column] == pytest.approx(np.sin(angle), abs=1e-5)
        assert got[:, 16 + column] == pytest.approx(np.cos(angle), abs=1e-5)
    assert sinusoids(8, 5).shape == (8, 5)


def test_sinusoidal_positions_are_no_trainable_parameter():
    model = GPT(TINY, 50)
    initialise(model, 0, positions="sinusoid")
    assert "wpe.weight" not in flat(model.trainable_parameters())
    assert mx.array_equal(model.wpe.weight, sinusoids(TINY.n_positions, TINY.n_embd))
    assert np.array(model.wpe.weight).std() == pytest.approx(INIT_STD, rel=0.3)


SHAPES = [
    TINY,
    ModelConfig(4, 6, 384, 256),
    ModelConfig(1, 3, 33, 64),
    ModelConfig(2, 1, 64, 64),
    ModelConfig(2, 8, 256, 256),
    ModelConfig(3, 12, 384, 256),
]


@pytest.mark.parametrize("config", SHAPES)
def test_heads_of_the_first_three_blocks_begin_by_looking_back(config):
    model = GPT(config, 50)
    initialise(model, 0, zero_residual=True, positions="look-back")
    assert "wpe.weight" not in flat(model.trainable_parameters())
    T, H, D = min(config.n_positions, 100), config.n_head, config.n_embd // config.n_head
    rows = mx.random.randint(0, 50, (1, T), key=mx.random.key(0))
    states = model.wte(rows) + model.wpe(mx.arange(T))
    near = 1 + np.arange(H)
    second = {8: [*range(9, 64, 9), 19], 12: [13, 26, 39, 52, *range(27, 35)]}
    places_back = (near, second.get(H, (H + 1) * near), H + 1 + near)
    for block, back_by_head in zip(model.h, places_back, strict=False):
        q, k, _ = np.split(np.array(block.attn.c_attn(block.ln_1(states)))[0], 3, axis=1)
        for head in range(H):
            part = slice(head * D, (head + 1) * D)
            logits = q[:, part] @ k[:, part].T / D**0.5
            logits[np.triu_indices(T, 1)] = -np.inf
            back = back_by_head[head]
            places = np.arange(back, T)
            assert (logits.argmax(1)[places] == places - back).mean() > 0.95, (back, head)
