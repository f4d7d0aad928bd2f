import dataclasses

import pytest

from mlx_shakegpt.settings.config import ModelConfig, TrainConfig
from mlx_shakegpt.settings.presets import PRESETS, RECIPES, fit_to_text, preset, recipe


@pytest.mark.parametrize(
    ("name", "count"), [("gpt2-124m", 124_439_808), ("gpt2-152m", 152_791_296)]
)
def test_presets_have_the_published_number_of_parameters(name, count):
    assert preset(name).model.n_parameters == count


def test_parameter_count_is_that_of_the_built_model():
    from mlx_shakegpt.model.gpt import GPT
    from mlx_shakegpt.model.trees import flat

    config = ModelConfig(n_layer=3, n_head=2, n_embd=16, n_positions=32, vocab_size=101)
    assert sum(p.size for p in flat(GPT(config).parameters()).values()) == config.n_parameters


def test_seed_recipes_have_every_number_of_their_projects():
    a, b = recipe("cosine-128"), recipe("constant-64")
    assert (a.batch_size, a.context, a.steps, a.warmup_steps) == (16, 128, 15000, 100)
    assert (a.lr, a.end_lr, a.clip, a.beta1, a.beta2) == (3e-4, 3e-5, 1.0, 0.9, 0.95)
    assert (a.jitter, a.target_loss, a.hold) == (False, 0.099999, 0.0)
    assert (b.batch_size, b.context, b.lr, b.clip, b.weight_decay) == (16, 64, 6e-4, 0.0, 0.0)
    assert (b.hold, b.warmup_steps, b.target_loss) == (1.0, 0, 0.099)


def test_configurations_come_back_from_json_as_they_were():
    for config in [recipe("recite", name) for name in PRESETS] + [recipe("cosine-128")]:
        assert TrainConfig.from_json(config.to_json()) == config


def test_an_option_that_came_after_a_file_has_its_default():
    older = recipe("recite", "gpt2-124m").to_json()
    del older["optimizer"]
    was = recipe("recite", "gpt2-124m", optimizer="adamw")
    assert TrainConfig.from_json(older) == was
    with pytest.raises(ValueError, match="n_layer"):
        ModelConfig.from_json({"n_head": 2, "n_embd": 16})
    with pytest.raises(ValueError, match="list, not an object"):
        ModelConfig.from_json([])


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"lr": "high"}, {"steps": 1.5}, {"lr": float("nan")}, {"seed": -1}]
)
def test_json_with_unknown_or_wrong_entries_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainConfig.from_json(TrainConfig().to_json() | change)


def test_a_context_that_the_short_one_does_not_fit_drops_it(monkeypatch):
    monkeypatch.setitem(RECIPES, "recite", TrainConfig(context=256, short_context=64))
    assert recipe("recite", "quick", context=128).short_context == 64
    assert recipe("recite", "quick", context=50, batch_size=3).short_context == 0
    assert recipe("recite", "quick", context=32).short_context == 0


def test_without_zero_residuals_all_blocks_are_trained_from_the_start():
    assert recipe("recite", "gpt2-124m").first_blocks == 4
    assert recipe("recite", "gpt2-124m", zero_residual=False).first_blocks == 0


@pytest.mark.parametrize(
    ("tokens", "chosen", "want"),
    [
        (338025, {}, (128, 32, 30.0)),
        (338025, {"batch_size": 4}, (128, 4, 30.0)),
        (338025, {"context": 64}, (64, 4, 30.0)),
        (50000, {}, (128, 8, 30.0)),
        (20480, {}, (128, 4, 30.0)),
        (2048, {}, (128, 4, 150.0)),
        (300, {}, (128, 4, 1024.0)),
        (128, {}, (64, 4, 1200.0)),
        (40, {}, (32, 4, 1920.0)),
        (40, {"context": 16}, (16, 4, 960.0)),
        (300, {"epochs": 9.0}, (128, 4, 9.0)),
        (300, {"steps": 50}, (128, 4, 30.0)),
    ],
)
def test_a_text_gets_windows_that_it_has_and_batches_and_steps_that_suit_it(tokens, chosen, want):
    config = fit_to_text(recipe("recite", "gpt2-124m", **chosen), tokens, chosen)
    assert (config.context, config.batch_size, config.epochs) == want
    assert config.context < tokens or "context" in chosen


def test_first_targets_cannot_weigh_less_in_windows_that_never_move():
    with pytest.raises(ValueError, match=r"only with `jitter`.*set `edge_weight` 1"):
        TrainConfig(edge_weight=0.1, jitter=False)
    for weight in (0.0, 1.1):
        with pytest.raises(ValueError, match="above 0, and at most 1"):
            TrainConfig(edge_weight=weight)


def test_a_recipe_in_fixed_windows_leaves_out_what_moves_them():
    fixed = recipe("recite", "quick", jitter=False)
    assert (fixed.hard, fixed.edge_weight) == (0.0, 1.0)
    with pytest.raises(ValueError, match="set `hard` 0"):
        recipe("recite", "quick", jitter=False, hard=0.5)


def test_width_must_be_a_multiple_of_heads():
    with pytest.raises(ValueError, match="multiple of n_head"):
        ModelConfig(n_layer=1, n_head=3, n_embd=32)


def test_every_option_says_what_it_is_for():
    for config in (ModelConfig, TrainConfig):
        assert all(f.metadata["help"] for f in dataclasses.fields(config))
