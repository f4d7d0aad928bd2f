"""What a report says of a machine, and what it does not."""

import getpass
import json
import socket
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_shakegpt.runtime import machine

MAC = {
    "sysctl": "Apple M1\n",
    "ioreg": '    "model" = "Apple M1"\n    "gpu-core-count" = 8\n    "IOClass" = "AGXG13G"\n',
    "pmset -g batt": "Now drawing from 'Battery Power'\n -InternalBattery-0 (id=1)\t80%;\n",
    "pmset -g": "System-wide power settings:\n lowpowermode         1\n sleep                1\n",
}


def test_a_linux_machine_is_described_without_its_names(device):
    text = json.dumps(machine.description(device))
    held = json.loads(text)
    assert held["chip"] and held["memory_bytes"] > 1e9 and held["cores"] >= 1
    assert held["versions"]["mlx"] == mx.__version__ and held["gpu"] is None
    assert socket.gethostname() not in text and "/" not in text.replace("GNU/Linux", "")


def test_a_mac_is_described_by_what_its_programs_print(monkeypatch, device):
    def output(*command):
        words = " ".join((Path(command[0]).name, *command[1:]))
        return next(MAC[name] for name in MAC if words == name or words.startswith(f"{name} -"))

    monkeypatch.setattr(machine, "printed_by", output)
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.mac_ver", lambda: ("26.2", ("", "", ""), "arm64"))
    monkeypatch.setattr(
        mx, "device_info", lambda: {"device_name": "Apple M1", "memory_size": 8 << 30, "id": "x"}
    )
    held = machine.description(replace(device, device="gpu", blas=None))
    assert (held["chip"], held["system"]) == ("Apple M1", "macOS 26.2")
    assert held["gpu"] == {"device_name": "Apple M1", "memory_size": 8 << 30, "cores": 8}
    assert held["power"] == "Battery Power, low power mode"


def test_a_program_that_is_missing_leaves_a_gap(monkeypatch, device):
    assert machine.printed_by("/no/such/program") == ""
    monkeypatch.setattr(machine, "printed_by", lambda *_: "")
    monkeypatch.setattr("sys.platform", "darwin")
    held = machine.description(device)
    assert held["chip"] == "unknown" and held["power"] is None


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        (
            "[METAL] Command buffer execution failed: x",
            "[METAL] Command buffer execution failed: x",
        ),
        ("cannot open /Users/jane/Mac of Jane/x.metallib: gone", "cannot open"),
        (r"cannot open C:\Users\jane\x.dll", "cannot open …"),
        ("first\nsecond /home/jane", "first"),
        ("a / b and 3/4 TB", "a / b and 3/4 TB"),
        ("", ""),
    ],
)
def test_an_error_is_kept_without_paths(message, kept):
    line = machine.without_names(message)
    assert line.startswith(kept) and "jane" not in line and "metallib" not in line


def test_an_error_is_kept_without_the_users_and_the_machines_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "janes-mac.local")
    monkeypatch.setattr(getpass, "getuser", lambda: "jane")
    line = machine.without_names("janes-mac.local and janes-mac and jane, but not janeway")
    assert line == "… and … and …, but not janeway"
