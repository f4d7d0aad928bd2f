import os

import pytest

from mlx_shakegpt.cli.long import Parts, awake


@pytest.mark.parametrize(("system", "started"), [("darwin", True), ("linux", False)])
def test_a_mac_is_kept_awake_while_it_works(monkeypatch, system, started):
    calls = []
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: calls.append(command))
    with awake():
        pass
    expected = ["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]
    assert calls == ([expected] if started else [])


def test_of_a_part_that_takes_long_it_is_told_how_much_is_left(capsys):
    times = iter([0.0, 0.4, 0.8, *(0.8 + 7.2 * hundredth for hundredth in range(1, 101))])
    parts = Parts(clock=lambda: next(times))
    for share in (0.5, 1):  # a quick part
        parts("em@32,32", share)
    assert capsys.readouterr().err == "  em@32,32\n"
    for hundredth in range(1, 101):
        parts("loss", hundredth / 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  loss: 5%, about 11 minutes left"
    assert lines[-2:] == ["  loss: 95%, about 36 seconds left", "  loss"]
    assert len(lines) == 20
