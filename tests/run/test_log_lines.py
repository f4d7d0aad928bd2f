import pytest

from mlx_shakegpt.run import log_lines
from mlx_shakegpt.run.samples import TextSample
from mlx_shakegpt.text.quotations import Span
from mlx_shakegpt.training import StepReport

STEP = StepReport(
    step=4160, epoch=25.2, tokens=8_519_680, loss=0.146132, lr=2.53e-4, norm=2.1198,
    dt=0.29815, tokens_per_second=6869.0,
)  # fmt: skip


def test_log_line_is_that_of_the_seed_project():
    want = "step  4160 | loss: 0.146132 | lr: 2.53e-04 | norm: 2.1198 | dt: 298.15ms"
    assert log_lines.log_line(STEP).startswith(want)


def test_time_to_target_extends_the_fall_of_the_logarithm():
    falling = [{"step": s, "nll": 2.0 ** (-s / 10)} for s in (10, 20, 30, 40)]
    assert log_lines.steps_to_target(falling, 40, 2.0**-6) == pytest.approx(20)
    assert log_lines.steps_to_target(falling[:2], 20, 0.1) is None
    assert log_lines.steps_to_target(falling[::-1], 40, 0.1) is None
    assert log_lines.steps_to_target(falling, 40, 2.0**-4) is None  # there already


def test_a_sample_is_one_line_with_verse_lines_apart():
    said = "ROMEO:\nBut, soft!\n\nwhat light"
    line = log_lines.sample_line(TextSample(120, said, [Span(7, 17, 5, 3)]))
    assert line == (
        "says   120 | ROMEO: / But, soft! / what light | word for word in the text: 37.5%, "
        "up to 5 words"
    )
    assert log_lines.sample_line(TextSample(7, "the", [])).endswith(
        "| the | word for word in the text: 0.0%"
    )


def test_what_is_known_is_one_line():
    line = "known   40 | 62.5% of the text's tokens likelier than all others together"
    assert log_lines.known_line(40, 0.625) == line
