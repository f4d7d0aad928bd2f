"""What a run keeps of its tokens' losses, and the film that is made of it."""

import json

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from mlx_shakegpt.run.film import LEFT, MOST_CELLS, NOTHING, RIGHT, TOP, film
from mlx_shakegpt.run.loss_levels import UNTRAINED, levels_of
from mlx_shakegpt.run.token_loss_file import (
    MOST,
    TOKEN_LOSSES,
    Moment,
    TokenLossFile,
    read_token_losses,
)
from mlx_shakegpt.training.windows import CAP

N = 50


def losses(step):
    """Losses after a step, of N tokens; the first has none yet."""
    nll = np.random.default_rng(step).exponential(1, N).astype(np.float32)
    nll[0] = CAP
    return nll


def keep(file, first, last, tell=pytest.fail):
    """Keeps the losses of some steps, as a run does that goes on after the one before."""
    history = TokenLossFile(file, N, first - 1, tell)
    for step in range(first, last + 1):
        history.note(step, step / 10, losses(step), last=step == last)
    return file


def test_levels_are_a_logarithmic_scale_with_a_place_for_what_was_not_seen():
    assert levels_of(np.array([0, 1e-4, 10, 50, CAP], np.float32)).tolist() == [0, 0, 254, 254, 255]
    nll = np.geomspace(1e-4, 10, 400).astype(np.float32)
    back = 1e-4 * 1e5 ** (levels_of(nll) / 254)
    assert np.abs(back / nll - 1).max() < 0.024


@pytest.mark.parametrize("steps", [1, 63, 64, 65, 1000])
def test_a_history_has_so_many_moments_at_most_evenly_spread_and_the_last(tmp_path, steps):
    moments = read_token_losses(keep(tmp_path / "h", 1, steps))
    assert min(steps, MOST // 2) <= len(moments) <= MOST
    assert moments[-1].step == steps
    assert len({*np.diff([m.step for m in moments[:-1]]).tolist()}) <= 1
    for moment in moments:
        nll = losses(moment.step)
        assert moment.levels.tolist() == levels_of(nll).tolist()
        assert moment.epoch == moment.step / 10
        assert moment.known == (nll < np.log(2)).sum() / (N - 1)


@pytest.mark.parametrize("back", [0, 5, 90, 130, 149])
def test_a_run_that_goes_back_has_the_history_of_one_that_did_not(tmp_path, back):
    alone = keep(tmp_path / "alone", 1, 200)
    keep(tmp_path / "h", 1, 150)
    keep(tmp_path / "h", back + 1, 200)
    assert (tmp_path / "h").read_bytes() == alone.read_bytes()


@pytest.mark.parametrize("place", [2, 9, 30, 400, -3])
def test_what_is_damaged_is_left_out_and_what_comes_later_kept(tmp_path, place):
    file = keep(tmp_path / "h", 1, 20)
    data = bytearray(file.read_bytes())
    data[place] ^= 255
    file.write_bytes(data)
    keep(file, 21, 30)
    steps = [moment.step for moment in read_token_losses(file)]
    sound = {2: 0, 9: 0, 30: 0, 400: 5, -3: 19}[place]
    assert steps == [*range(1, sound + 1), *range(21, 31)]


@pytest.mark.parametrize("size", [0, 3, 16, 17, 150])
def test_a_history_that_lost_its_end_goes_on(tmp_path, size):
    file = keep(tmp_path / "h", 1, 20)
    file.write_bytes(file.read_bytes()[:size])
    keep(file, 21, 22)
    assert [moment.step for moment in read_token_losses(file)][-2:] == [21, 22]


def test_a_history_that_is_taken_away_begins_anew(tmp_path):
    history = TokenLossFile(tmp_path / "h", N, 0, pytest.fail)
    history.note(1, 0.1, losses(1))
    (tmp_path / "h").unlink()
    history.note(2, 0.2, losses(2))
    assert [moment.step for moment in read_token_losses(tmp_path / "h")] == [2]


def test_what_cannot_be_written_is_said_once_and_ends_no_training(
    shakegpt, poem, tiny_preset, home
):
    options = ["--preset", tiny_preset, "--data", poem, "--corpus-tokens", 80]
    assert shakegpt("train", *options, "--steps", 2).code == 1
    run = home / "weights" / "tiny"
    (run / TOKEN_LOSSES).unlink()
    (run / TOKEN_LOSSES).mkdir()
    result = shakegpt("train", "--resume", "--run", "tiny", "--steps", 6)
    assert result.code == 1 and result.err.count("Warning: no film of this run: ") == 1
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert sum("loss" in json.loads(line) for line in lines) == 6


def colours(picture, frame, columns, cell, count):
    """The colours of a frame's first cells."""
    picture.seek(frame)
    pixels = np.array(picture.convert("RGB"))
    middles = [(TOP + i // columns * cell + cell // 2, LEFT + i % columns * cell + cell // 2)
               for i in range(count)]  # fmt: skip
    return np.array([pixels[y, x] for y, x in middles])


@pytest.mark.parametrize("ending", ["gif", "png", "apng"])
def test_a_film_shows_each_token_in_the_colour_of_its_loss(tmp_path, ending):
    ids = np.arange(300, 350)
    codes = np.linspace(0, 254, N).astype(np.uint8)
    moments = [Moment(1, 0.1, 0, codes), Moment(9, 0.9, 0.5, codes[::-1].copy())]
    file = tmp_path / f"film.{ending}"
    film(file, ids, moments, 7, "mine")
    with Image.open(file) as picture:
        assert (picture.n_frames, picture.is_animated) == (3, True)
        first, middle, last = (colours(picture, i, 16, 51, N) for i in range(3))
    assert (first == first[0]).all()  # nothing was seen yet
    wanted = np.array(mpl.colormaps["viridis"](codes / 254))[:, :3] * 255
    assert np.abs(middle - wanted).max() < 24 and np.abs(last[::-1] - wanted).max() < 24


def test_a_cell_of_a_long_text_is_several_tokens(tmp_path):
    n = 2 * MOST_CELLS - 9
    codes = np.where(np.arange(n) % 2, 0, 254).astype(np.uint8)
    codes[:5] = UNTRAINED  # two cells, and half of a third, which is the other half's colour
    film(tmp_path / "film.png", np.full(n, 300), [Moment(1, 0.1, 0, codes)], 1, "mine")
    with Image.open(tmp_path / "film.png") as picture:
        shown = colours(picture, 1, (picture.width - LEFT - RIGHT) // 2, 2, 5)
    assert shown[0].tolist() == shown[1].tolist() == list(NOTHING)
    wanted = mpl.colormaps["viridis"](np.array([0, 0.5, 0.5]))[:, :3] * 255
    assert np.abs(shown[2:] - wanted).max() < 10


def test_a_run_is_filmed_by_plot(shakegpt, poem, tiny_preset, home, tmp_path):
    options = ["--preset", tiny_preset, "--data", poem, "--corpus-tokens", 80]
    assert shakegpt("train", *options, "--steps", 5).code == 1
    file = tmp_path / "out.gif"
    result = shakegpt("plot", "tiny", "--film", file, "--json")
    assert result.json() == {"run": "tiny", "picture": str(file), "moments": 5}
    with Image.open(file) as picture:
        assert picture.n_frames == 6
    for arguments, words in (
        (["tiny", "--film", "out.mp4"], "must end in .gif, .png, .apng"),
        (["tiny", "--film", "out.gif", "--dark"], "a film has no --dark; leave it out"),
        (["tiny", "tiny", "--film", "out.gif"], "a film shows one run; name one"),
        (["none", "--film", "out.gif"], "no run 'none'"),
    ):
        result = shakegpt("plot", *arguments)
        assert result.code == 2 and words in result.err, result.err
    history = home / "weights" / "tiny" / TOKEN_LOSSES
    history.write_bytes(b"none of it")
    assert "is damaged" in shakegpt("plot", "--film", file).err
    history.unlink()
    assert f"run 'tiny' has no {TOKEN_LOSSES}" in shakegpt("plot", "--film", file).err
