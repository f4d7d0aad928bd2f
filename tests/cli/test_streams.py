"""The program where its standard streams are closed, or nobody reads them to the end."""

import os
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

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
