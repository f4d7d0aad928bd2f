"""The program where its standard streams are closed or not read to their end, or a terminal's
interrupt comes at an awkward moment."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest
from conftest import PATIENCE, ROOT, TINY_PROGRAM

SPEAK = [sys.executable, str(ROOT / "cli.py"), "generate", "First", "--run", "known"]
SPEAK += ["--max-tokens", "30"]


def shell(home, line):
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    return subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_a_model_is_read_where_streams_are_closed(home, known_run, closed):
    done = shell(home, shlex.join(SPEAK) + f" {closed}")
    assert done.returncode == 0 and done.stdout.startswith("First Citizen:"), done
    assert done.stderr == ""


@pytest.mark.parametrize("reader", ["head -c 1", "true"])
def test_output_that_is_not_read_to_its_end_is_no_failure(home, known_run, reader):
    done = shell(home, f"{shlex.join(SPEAK)} | {reader}; exit ${{PIPESTATUS[0]}}")
    assert done.returncode == 0 and done.stderr == "", done


def test_an_interrupt_while_kernels_are_compiled_ends_the_step_first(home, tmp_path):
    """A terminal sends it to the compilers too."""
    command = [*TINY_PROGRAM, "train", "--preset", "tiny", "--steps", "3", "--run", "r"]
    environment = os.environ | {"SHAKEGPT_HOME": str(home), "XDG_CACHE_HOME": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        next(line for line in process.stderr if "compiles MLX's kernels" in line)
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.rglob("*.gch*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        errors, said = process.stderr.read(), process.stdout.read()
    assert process.returncode == 130 and "go on with: " in said, errors
