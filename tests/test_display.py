"""What a training and a recital look like in a terminal, and where there is none."""

import os
import pty
import re
import subprocess
import sys

import pytest
from conftest import ROOT

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
BAR = "step 1/"


def in_terminal(home, *arguments, **extra):
    """Everything that a command of the program writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    environment = plain | {"SHAKEGPT_HOME": str(home), "TERM": "xterm-256color"} | extra
    command = [sys.executable, "cli.py", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        said = b""
        try:
            while block := os.read(ours, 1 << 16):
                said += block
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    return said.decode()


@pytest.fixture
def train(home, poem):
    """Trains for two steps in a terminal."""

    def run(name, **extra):
        options = ["--preset", "quick", "--data", poem, "--run", name, "--context", 16]
        return in_terminal(home, "train", *options, "--steps", 2, **extra)

    return run


def test_a_terminal_shows_a_bar_and_a_job_or_pipe_lines(train):
    shown = train("bar")
    assert BAR in shown and COLOUR.search(shown) and "step     1 |" not in shown
    lines = train("ci", CI="true")
    assert "step     1 | loss:" in lines and BAR not in lines


def test_no_color_means_no_colour(train, home, known_run):
    shown = train("plain", NO_COLOR="1")
    assert BAR in shown and not COLOUR.search(shown)
    mark = ["generate", "First", "--run", "known", "--max-tokens", 30, "--mark"]
    assert COLOUR.search(in_terminal(home, *mark))
    assert not COLOUR.search(in_terminal(home, *mark, NO_COLOR="1"))
