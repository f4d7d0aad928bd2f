import numpy as np
import pytest

from mlx_shakegpt.config import Passage
from mlx_shakegpt.corpus import Corpus, Vocabulary, Windows


@pytest.mark.parametrize("n", [17, 33, 400, 401, 415])
@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_each_target_is_trained_exactly_once_an_epoch(n, epoch):
    windows = Windows(np.arange(n), batch_size=3, context=16, seed=5, jitter=True)
    seen = np.zeros(n, int)
    for start, low, high in windows.epoch_windows(epoch):
        assert start >= 0 and start + high <= n - 1
        seen[start + 1 + low : start + 1 + high] += 1
    assert seen[0] == 0 and (seen[1:] == 1).all()


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
    assert windows.batch(0).inputs[:, 0].tolist() == [0, 16, 32]
    assert windows.batch(2).inputs[:, 0].tolist() == [0, 16, 32]  # 6 whole windows an epoch
    assert windows.batch(1).epoch == 1.0
    assert windows.steps(2) == 4


def test_closed_vocabulary_knows_every_id_and_one_row_for_the_rest():
    vocabulary = Vocabulary.of(np.array([7, 3, 7, 11]), total=20)
    assert (vocabulary.rows, vocabulary.absent) == (4, 17)
    assert vocabulary.close(np.array([3, 7, 11, 0, 19])).tolist() == [0, 1, 2, 3, 3]
    everything = Vocabulary.of(np.arange(5), total=5)
    assert (everything.rows, everything.absent) == (5, 0)


def test_passage_starts_at_its_line_and_has_its_tokens():
    corpus = Corpus.load(None, Passage(first_line=15877, tokens=50))
    from mlx_shakegpt.tokenizer import decode

    assert decode(corpus.ids).startswith("ROMEO:\nIs the day so young?")
    assert len(corpus.ids) == 50


@pytest.mark.parametrize(
    ("content", "passage", "words"),
    [
        (b"", Passage(), "is empty"),
        (b"to be\xff or", Passage(), "byte 5 is 0xff"),
        (b"one\ntwo\n", Passage(first_line=4), "has 2 lines"),
        (b"one\ntwo\n", Passage(tokens=99), "cannot have 99"),
    ],
)
def test_texts_that_cannot_be_learned_are_refused(tmp_path, content, passage, words):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        Corpus.load(path, passage)


def test_a_text_shorter_than_a_window_is_refused_with_a_way_out():
    with pytest.raises(ValueError, match="use --context 15 or less"):
        Windows(np.arange(16), 1, 16, seed=0, jitter=True)
