"""What a training and a recital look like in a terminal, and where there is none."""

import re
import sys

import pytest
from conftest import shown_in_terminal

from mlx_shakegpt.cli.common import emit, note

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
BAR = "step 2 of 2"


def in_terminal(home, *arguments, **extra):
    """Everything that a command of the program writes to a terminal of its own."""
    command = [sys.executable, "cli.py", *map(str, arguments)]
    return shown_in_terminal(command, {"SHAKEGPT_HOME": str(home)} | extra)[0]


@pytest.fixture
def train(home, poem):
    """Trains for two steps in a terminal."""

    def run(name, **extra):
        options = ["--preset", "quick", "--data", poem, "--run", name, "--context", 16]
        return in_terminal(home, "train", *options, "--steps", 2, **extra)

    return run


def test_a_terminal_shows_a_panel_and_a_job_or_pipe_lines(train):
    shown = train("bar")
    assert BAR in shown and COLOUR.search(shown) and "step     1 |" not in shown
    for environment in ({"CI": "true"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii"}):
        lines = train("-".join(environment), **environment)
        assert "step     1 | loss:" in lines and BAR not in lines


def test_no_color_means_no_colour(train, home, known_run):
    shown = train("plain", NO_COLOR="1")
    assert BAR in shown and not COLOUR.search(shown)
    mark = ["generate", "First", "--run", "known", "--max-tokens", 30, "--mark"]
    assert COLOUR.search(in_terminal(home, *mark))
    assert not COLOUR.search(in_terminal(home, *mark, NO_COLOR="1"))


HOSTILE = "First\x1b[31m\x1b]0;owned\x07 \x9b2J\u202e\r\x7f\n\tCitizen: "
SHOWN = "First\\x1b[31m\\x1b]0;owned\\x07 \\x9b2J\\u202e\\r\\x7f\n\tCitizen: "


def test_a_terminal_shows_control_characters_instead_of_obeying_them(home, known_run, tmp_path):
    text = tmp_path / "evil\x1b[2J.txt"
    text.write_text(HOSTILE * 20, newline="")
    shown = in_terminal(home, "recite", "--data", text, "--tokens", 60, "--run", "known")
    shown = shown.rpartition("\x1b[?25h")[2].replace("\r\n", "\n")  # after the bar of downloads
    assert shown.startswith(SHOWN)
    plain = COLOUR.sub("", shown).replace("\x1b[0m", "")
    assert plain.count("\\x1b[31m") > 3 and "\x1b" not in plain
    # Colours that the program itself puts around a wrong word stay.
    assert COLOUR.search(shown)


def test_every_line_for_people_is_free_of_control_characters(shakegpt, monkeypatch, capfd):
    error = shakegpt("train", "--preset", "quick", "--data", "a\x1b[2J\x07b").err
    assert error == "Error: no text file a\\x1b[2J\\x07b; check the path\n"
    note("Learning a\x1b[2J\nb")
    assert capfd.readouterr().err == "Learning a\\x1b[2J\\nb\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit(False, {}, f"worst lines\n{HOSTILE}")
    assert capfd.readouterr().out == f"worst lines\n{SHOWN}\n"


def test_a_pipe_gets_what_is_said_byte_for_byte(shakegpt, known_run):
    output = shakegpt("generate", HOSTILE, "--max-tokens", 9, "--json").json()["text"]
    assert shakegpt("generate", HOSTILE, "--max-tokens", 9).out == HOSTILE + output + "\n"
    marked = shakegpt("generate", HOSTILE, "--max-tokens", 9, "--mark")
    assert marked.out == HOSTILE + output + "\n" and "Known word for word" in marked.err
