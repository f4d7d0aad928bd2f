"""The panel of a training: what it shows in terminals of any size, also when that changes."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PATIENCE, TRAIN_TINY, shown_in_terminal, tool
from rich.console import Console
from rich.text import Text

from mlx_shakegpt.cli import braille
from mlx_shakegpt.cli.common import note
from mlx_shakegpt.cli.live import Live
from mlx_shakegpt.cli.panel import Panel, clock
from mlx_shakegpt.run.progress import RunProgress
from mlx_shakegpt.run.samples import TextSample
from mlx_shakegpt.text.quotations import Source
from mlx_shakegpt.training import RunState, StepReport

VERSE = "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, "
SAID = f"{VERSE}and Romeo\n\n\n\tis the sun.\x1b[2J" + "\n字字字字字字字字字" * 9


def test_a_curve_has_the_heights_that_it_is_given():
    assert braille.curve([1, 1], 1) == ["⠉"] and braille.curve([0, 0], 1) == ["⣀"]
    assert braille.curve([1, 0], 1) == ["⢱"]  # joined
    assert braille.curve([1, 1, 0, 0], 2) == ["⠉⡆", " ⣇"]
    assert braille.curve([], 2) == ["", ""]
    falling = braille.curve(np.linspace(1, 0, 120).tolist(), 4)
    assert [len(row) for row in falling] == [60] * 4
    assert all(any(row[x] != " " for row in falling) for x in range(60))


def test_a_strip_is_empty_or_full_only_where_all_is():
    assert braille.strip([0, 0.001, 0.5, 0.999, 1]) == "▁▂▅▇█"


def test_a_clock_shows_hours_where_there_are_some():
    assert [clock(7.4), clock(62), clock(3723)] == ["0:07", "1:02", "1:02:03"]


def panel(console, total=240, steps=96, n=4096):
    """The panel of a run that has come some way."""
    rng = np.random.default_rng(0)
    losses = SimpleNamespace(nll=np.abs(rng.normal(0, 2, n)).astype(np.float32))
    state = RunState(total=total)
    state.evaluations = [{"step": 90, "nll": 0.54, "complete": False, "extracted": 0.31}]
    config, curriculum = SimpleNamespace(target_loss=0.1), SimpleNamespace(losses=losses)
    trainer = SimpleNamespace(state=state, config=config, curriculum=curriculum)
    now = [0.0]
    progress = RunProgress(
        SimpleNamespace(trainer=trainer, path=SimpleNamespace(name="quick")), lambda: now[0]
    )
    shown = Panel(console, "a-name-of-some-length", progress)
    for step in range(1, steps + 1):
        now[0] += 0.5
        loss = 10 * float(np.exp(-step / 30))
        progress.note(StepReport(step, step / 8, step * 512, loss, 1e-3, 1.0, 0.5, 1024.0))
        shown.sample = TextSample(step, SAID, Source(VERSE).spans(SAID))
    return shown


@pytest.mark.parametrize("width", [1, 5, 11, 20, 39, 79, 300])
@pytest.mark.parametrize("height", [0, 1, 5, 9, 15, 23, 60])
def test_a_panel_fits_into_any_terminal(width, height):
    for steps, tokens in ((0, 4096), (1, 2), (96, 4096)):
        lines = panel(Console(), steps=steps, n=tokens)(width, height)
        assert len(lines) <= height
        assert all(line.cell_len <= width for line in lines)
        assert not any("\n" in line.plain or "\x1b" in line.plain for line in lines)
        assert bool(lines) == (steps > 0 and height > 0)


@pytest.mark.parametrize("width", [39, 79])
def test_a_panel_says_all_that_matters_also_in_forty_columns(width):
    text = "\n".join(line.plain for line in panel(Console())(width, 23))
    known = np.mean(np.abs(np.random.default_rng(0).normal(0, 2, 4096))[1:] < np.log(2))
    for part in ("step 96 of 240", "≤ 1:12 left", "━", "0.4076", f"{known:.1%}", "0.5400",
                 "ROMEO:", "But, soft!", "word for word", "at 96"):  # fmt: skip
        assert part in text, text


def styles(console):
    """The styles of the first sample's line."""
    lines = panel(console)(79, 23)
    line = next(line for line in lines if "But, soft!" in line.plain)
    return [span.style for span in line.spans if line.plain[span.start : span.end].strip()]


def test_what_is_known_is_coloured_or_where_there_is_no_colour_bold():
    assert "green" in str(styles(Console(force_terminal=True, color_system="standard")))
    bold = str(styles(Console(force_terminal=True, color_system="standard", no_color=True)))
    assert "bold" in bold and "green" not in bold


class Terminal(io.TextIOWrapper):
    """Keeps all that is written, as a stream of text over bytes."""

    def __init__(self):
        super().__init__(io.BytesIO(), encoding="utf-8")

    def isatty(self):
        return True

    def getvalue(self):
        self.flush()
        return self.buffer.getvalue().decode()


def screen(output):
    """The lines of a terminal that was wide enough, after some output."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[\??\d*[a-zA-Z]|\r|\n)", output):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A") and part.startswith("\x1b"):
            row -= int(part[2:-1])
            assert row >= 0
        elif part == "\x1b[J":
            lines[row:] = [""]
        elif part not in ("\r", "") and not part.startswith("\x1b"):
            lines[row] = part
    return lines


def test_notes_appear_above_the_panel_and_the_last_picture_stays(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    console, count = Console(stderr=True, force_terminal=True, width=60, height=20), [0]

    def frame(width, height):
        assert (width, height) == (59, 19)
        count[0] += 1
        return [Text(f"picture {count[0]}  "), *(Text("more") for _ in range(3))]

    with Live(console, frame, seconds=900) as live:
        live.draw()
        note("one")
        live.draw()
        sys.stderr.write("two, and no ")
        sys.stderr.write("newline")
    assert sys.stderr is terminal
    assert screen(terminal.getvalue()) == [
        "one", "two, and no newline", "picture 4", "more", "more", "more", ""
    ]  # fmt: skip


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch):
    class Gone(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    console = Console(stderr=True, force_terminal=True, width=60, height=20)
    drawn = []
    with Live(console, lambda *_: drawn.append(1) or [], seconds=0.01) as live:
        live.thread.join(PATIENCE)
        assert not live.thread.is_alive()
    assert len(drawn) == 2  # in the thread, and at the end


def test_json_is_alone_on_stdout_under_a_panel(home):
    environment = {"SHAKEGPT_HOME": str(home), "TINY_SAMPLES": "1"}
    command = [*TRAIN_TINY, "--steps", "3", "--run", "j", "--json"]
    shown, printed = shown_in_terminal(command, environment, stdout=subprocess.PIPE)
    assert json.loads(printed)["step"] == 3 and printed.count("\n") == 1
    assert "step 3 of 3" in shown and "says" in shown


def test_training_goes_on_where_stderr_is_closed(home):
    line = (
        " ".join(map(shlex.quote, [*TRAIN_TINY, "--steps", "3", "--run", "c", "--json"])) + " 2>&-"
    )
    environment = os.environ | {"SHAKEGPT_HOME": str(home), "TINY_SAMPLES": "1"}
    done = subprocess.run(
        ["sh", "-c", line], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and json.loads(done.stdout)["step"] == 3, done
    assert done.stderr == ""


def test_a_panel_follows_a_terminal_that_changes_its_size(home, tmp_path):
    """In tmux, which wraps the lines of a picture anew, as other terminals do."""
    tmux = tool("tmux")
    socket = ["-S", str(tmp_path / "tmux"), "-f", os.devnull]

    def run(*words):
        command = [tmux, "-u", *socket, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def shown(until):
        deadline = time.monotonic() + PATIENCE
        while not until(screen := run("capture-pane", "-p")):
            assert time.monotonic() < deadline, screen
            time.sleep(0.1)
        return screen

    names = {"SHAKEGPT_HOME": str(home), "TINY_SAMPLES": "1", "TINY_PAUSE": "0.2"}
    names["PYTHONIOENCODING"] = "utf-8"
    words = ["env", "-u", "CI", *(f"{name}={value}" for name, value in names.items()), *TRAIN_TINY]
    words += ["--steps", "9999", "--checkpoint-every", "1", "--target-loss", "1e-9"]
    run("new-session", "-d", "-x", "80", "-y", "40", shlex.join([*words, "--run", "t"]))
    try:
        wide = shown(lambda screen: "says" in screen and "word for word" in screen)
        assert any(re.fullmatch(" {10}[━─]{69}", line) for line in wide.splitlines())
        for width in (40, 100, 60):
            run("resize-window", "-x", str(width), "-y", "40")
            bar = f"(?m)^ {{10}}[━─]{{{width - 11}}}$"
            screen = shown(lambda screen, bar=bar: re.search(bar, screen))
            for label in ("step ", "loss", "known", "says"):
                lines = [line for line in screen.splitlines() if re.match(f"(t +)?{label}", line)]
                assert len(lines) == 1, screen
        run("send-keys", "C-c")
    finally:
        subprocess.run([tmux, *socket, "kill-server"], check=False)
