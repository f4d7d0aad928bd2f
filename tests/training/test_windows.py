import numpy as np
import pytest

from mlx_shakegpt.training.windows import CAP, ENOUGH, TokenLosses, Windows, with_edge


@pytest.mark.parametrize("n", [17, 33, 400, 401, 415])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_target_is_trained_exactly_once_an_epoch(n, epoch):
    windows = Windows(np.arange(n), batch_size=3, context=16, seed=5, jitter=True)
    counts = np.zeros(n, int)
    for start, trained in windows.epoch_windows(epoch):
        assert start >= 0 and start + trained <= n - 1
        counts[start + 1 : start + 1 + trained] += 1
    assert counts[0] == 0 and (counts[1:] == 1).all()


def test_order_is_a_function_of_seed_and_epoch_alone():
    ids = np.arange(300)
    one, two = (Windows(ids, 4, 16, seed=3, jitter=True) for _ in range(2))
    for step in (0, 5, 17):
        one.batch(step)
    late = two.batch(40)
    assert (one.batch(40).inputs == late.inputs).all()
    assert one.batch(40).epoch == late.epoch
    other = Windows(ids, 4, 16, seed=4, jitter=True)
    assert (other.batch(40).inputs != late.inputs).any()
    assert (one.epoch_windows(0)[0] != one.epoch_windows(1)[0]).any()


def test_batches_are_full_and_targets_follow_inputs():
    windows = Windows(np.arange(1000), 4, 16, seed=0, jitter=True)
    for step in range(40):
        batch = windows.batch(step)
        assert batch.inputs.shape == batch.targets.shape == batch.weights.shape == (4, 16)
        inside = batch.weights > 0
        assert (batch.targets[inside] == batch.inputs[inside] + 1).all()
        assert batch.inputs.max() <= 999 and batch.targets.max() <= 999


def test_windows_begin_at_every_place_of_the_text():
    windows = Windows(np.arange(40), 3, 16, seed=0, jitter=True)
    starts = np.concatenate([windows.epoch_windows(epoch)[:, 0] for epoch in range(200)])
    assert set(starts) == set(range(39))


def test_fixed_windows_lie_end_to_end_in_text_order():
    windows = Windows(np.arange(100), 3, 16, seed=0, jitter=False)
    assert windows.epoch_windows(0).tolist() == [[start, 16] for start in range(0, 96, 16)]
    assert windows.batch(0).inputs[:, 0].tolist() == [0, 16, 32]
    assert windows.batch(2).inputs[:, 0].tolist() == [0, 16, 32]  # 6 whole windows an epoch
    assert windows.batch(1).epoch == 1.0
    assert windows.steps(2) == 4


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1, "the text has 1 token, fewer than one window of 16 and its next token; use a longer"),
        (2, "the text has 2 tokens, .*; use a longer text"),
        (3, "the text has 3 tokens, .*; use `context` 2, or a longer text"),
        (16, "use `context` 15, or a longer text"),
    ],
)
def test_a_text_shorter_than_a_window_is_refused_with_a_way_out(n, words):
    with pytest.raises(ValueError, match=words):
        Windows(np.arange(n), 1, 16, seed=0, jitter=True)


def test_hard_windows_are_put_around_tokens_by_their_loss():
    n, T = 4000, 32
    losses = TokenLosses(n)
    losses.nll[:] = 0.001
    losses.nll[[1, 700, 3999]] = (2.0, 6.0, 4.0)
    windows = Windows(np.arange(n), 4, T, seed=0, jitter=True, hard=0.6, losses=losses)
    plain = Windows(np.arange(n), 4, T, seed=0, jitter=True)
    for epoch in range(4):
        rows = windows.epoch_windows(epoch)
        assert len(rows) == len(plain.epoch_windows(epoch))
        start, trained = rows.T
        assert (start >= 0).all() and (start + trained <= n - 1).all() and (trained >= 1).all()
        hits = {t: int(((start + ENOUGH < t) & (t <= start + trained)).sum()) for t in (700, 3999)}
        drawn = 0.6 * len(rows)
        # 16 nats in all, the four that are spread evenly included.
        assert drawn * 5.5 / 16 < hits[700] < drawn * 6.5 / 16 + 3
        assert drawn * 3.5 / 16 < hits[3999] < drawn * 4.5 / 16 + 3
        assert (start == 0).sum() >= drawn * 1.5 / 16


def test_every_place_is_still_visited_where_hard_ones_draw_windows():
    losses = TokenLosses(400)
    losses.nll[:] = 0.0
    losses.nll[200] = CAP
    windows = Windows(np.arange(400), 4, 16, seed=0, jitter=True, hard=0.65, losses=losses)
    visits = np.zeros(400, int)
    for epoch in range(30):
        for start, trained in windows.epoch_windows(epoch):
            visits[start + 1 : start + 1 + trained] += 1
    assert visits[1:].min() >= 3 and visits[200] > 5 * np.median(visits)


@pytest.mark.parametrize("context", [2, 3, 12, 16, 40])
def test_losses_are_noted_where_there_was_context(context):
    losses = TokenLosses(200)
    windows = Windows(np.arange(200), 3, context, seed=0, jitter=True, losses=losses)
    batch = windows.batch(2)
    losses.note(batch, np.arange(3.0 * context).reshape(3, context))
    noted = 0
    for row, start in enumerate(batch.starts):
        for position in range(context):
            before = position >= min(ENOUGH, context // 2)
            if batch.weights[row, position] and (before or start == 0):
                assert losses.nll[start + position + 1] == context * row + position
                noted += 1
    assert noted and (losses.nll == CAP).sum() >= 200 - noted


@pytest.mark.parametrize(("context", "edge"), [(40, ENOUGH), (16, 8), (5, 2)])
@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_a_windows_first_targets_may_weigh_less_but_for_the_texts_own(context, edge, weight):
    ids = np.arange(100)
    windows = Windows(ids, 4, context, seed=1, jitter=True)
    random, seen_start = np.random.default_rng(2), False
    for step in range(60):
        batch = windows.batch(step)
        lighter = with_edge(batch, weight)
        ratio = np.where(np.arange(context) < edge, np.float32(weight), np.float32(1))
        for row, start in enumerate(batch.starts):
            seen_start |= start == 0
            want = batch.weights[row] * (ratio if start else 1)
            assert lighter.weights.dtype == np.float32
            assert np.array_equal(lighter.weights[row], want.astype(np.float32))
        # What a window's losses tell stays what it was.
        nll = random.random(batch.targets.shape, np.float32)
        one, two = TokenLosses(100), TokenLosses(100)
        assert one.note(batch, nll) == two.note(lighter, nll)
        assert np.array_equal(one.nll, two.nll)
    assert seen_start


@pytest.mark.parametrize("context", [2, 5, 12])
def test_losses_of_short_windows_are_noted_too(context):
    """In some epochs nearly each token has had half a window before it."""
    losses = TokenLosses(300)
    windows = Windows(np.arange(300), 4, context, seed=0, jitter=True, hard=0.5, losses=losses)
    for step in range(windows.steps(6)):
        losses.note(windows.batch(step), np.full((4, context), 0.5))
    assert (losses.nll[1:] == 0.5).mean() > 0.9


def test_windows_drawn_by_loss_go_on_as_they_were_after_a_restart():
    def make():
        return Windows(
            np.arange(400), 4, 16, seed=0, jitter=True, hard=0.5, losses=TokenLosses(400)
        )

    one = make()
    assert one.draws(0)
    first = [one.batch(step).starts for step in range(3)]
    assert not one.draws(3)
    drawn = one.drawn(3)
    assert list(drawn) == ["0"]
    two = make()
    two.losses.nll[:] = 0.5  # what is seen later does not touch an epoch in progress
    two.restore(drawn)
    for step in range(3, 6):
        assert (two.batch(step).starts == one.batch(step).starts).all()
    assert first[0].shape == (4,)
    assert any(one.draws(step) for step in range(6, 9))


@pytest.mark.parametrize(("n", "batch_size"), [(400, 4), (400, 1), (40, 7)])
def test_what_is_drawn_ahead_is_not_kept_and_what_is_under_way_is(n, batch_size):
    """Whatever was drawn: windows that a step itself begins follow from the losses before it."""
    rng = np.random.default_rng(0)
    one = Windows(
        np.arange(n), batch_size, 16, seed=0, jitter=True, hard=0.5, losses=TokenLosses(n)
    )
    for step in range(60):
        drawn = one.drawn(step)
        two = Windows(np.arange(n), batch_size, 16, 0, True, 0.5, TokenLosses(n))
        two.losses.nll[:] = one.losses.nll
        two.restore(drawn)
        batch = one.batch(step)
        assert (two.batch(step).starts == batch.starts).all()
        assert drawn.keys() == one.drawn(step).keys() and len(drawn) <= 1
        one.losses.nll[:] = rng.uniform(0, CAP, n)


def test_the_order_of_a_seed_is_that_of_earlier_versions():
    """Runs that were saved go on in it, and a seed means the same run for everyone."""
    losses = TokenLosses(300)
    losses.nll[:] = np.arange(300) % 11
    windows = Windows(np.arange(300), 4, 32, seed=3, jitter=True, hard=0.5, losses=losses)
    assert [windows.batch(step).starts.tolist() for step in range(6)] == [
        [186, 165, 224, 0],
        [250, 154, 61, 112],
        [122, 90, 253, 41],
        [211, 54, 137, 116],
        [201, 11, 154, 9],
        [0, 2, 183, 0],
    ]


@pytest.mark.parametrize(("n", "batch_size"), [(400, 4), (60, 1), (40, 7)])
def test_a_step_draws_where_an_epoch_begins_in_its_batch(n, batch_size):
    windows = Windows(np.arange(n), batch_size, 16, seed=0, jitter=True, hard=0.5)
    lengths = [len(windows.epoch_windows(epoch)) for epoch in range(200)]
    begins = set(np.cumsum([0, *lengths]).tolist())
    for step in range(40):
        batch = range(step * batch_size, (step + 1) * batch_size)
        assert windows.draws(step) == any(index in begins for index in batch)
    plain = Windows(np.arange(n), batch_size, 16, seed=0, jitter=True)
    assert not any(plain.draws(step) for step in range(40))


def test_an_epoch_keeps_its_windows_to_its_end_and_no_longer():
    losses = TokenLosses(400)
    windows = Windows(np.arange(400), 1, 16, seed=0, jitter=True, hard=0.5, losses=losses)
    drawn = windows.epoch_windows(0)[:, 0].tolist()
    starts = []
    for step in range(len(drawn)):
        starts.append(int(windows.batch(step).starts[0]))
        losses.nll[:] = step % 7  # what is seen meanwhile decides the next epoch
        losses.nll[step] = 9
    assert starts == drawn
    assert list(windows.drawn(len(drawn) - 1)) == ["0"] and windows.drawn(len(drawn)) == {}
    windows.batch(len(drawn))
    again = windows.epoch_windows(0)[:, 0].tolist()
    starts = [int(windows.batch(step).starts[0]) for step in range(len(again))]
    assert starts == again != drawn  # the first one was dropped, and is drawn anew


def test_steps_of_ever_so_many_passes_are_told_at_once():
    windows = Windows(np.arange(400), 4, 16, seed=0, jitter=True)
    assert windows.steps(1e6) == pytest.approx(1e6 / 2000 * windows.steps(2000), rel=0.05)


def test_steps_are_those_that_hold_the_windows_of_so_many_passes():
    windows = Windows(np.arange(400), 4, 16, seed=0, jitter=True)
    lengths = [len(windows.epoch_windows(epoch)) for epoch in range(6)]
    assert len(set(lengths)) > 1
    for epochs in (0.01, 0.25, 0.5, 1.0, 1.1, 1.75, 2.5, 4.9):
        whole = int(epochs)
        n = sum(lengths[:whole]) + round((epochs - whole) * lengths[whole])
        assert windows.steps(epochs) == max(1, -(-n // 4))
    assert Windows(np.arange(400), 4, 16, seed=0, jitter=True).steps(0.01) == 1
    assert Windows(np.arange(100), 3, 16, seed=0, jitter=False).steps(2.5) == 5
