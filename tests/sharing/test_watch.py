"""The page that follows a run: in a real browser beside a real training, and what its server lets
through."""

import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from conftest import GOLDEN, PATIENCE, ROOT, TRAIN_TINY, assert_loopback_only, free_port

from mlx_shakegpt.run import loss_levels
from mlx_shakegpt.run.checkpoint_progress import newest_progress
from mlx_shakegpt.run.watched_run import WatchedRun
from mlx_shakegpt.sharing import watch_beside
from mlx_shakegpt.sharing.watch_server import PAGE, PORTS, WatchServer, watch_server

POLICY = (
    "document.addEventListener('securitypolicyviolation', e => console.error(e.violatedDirective))"
)


@contextmanager
def served(folder, data=None, **more):
    """A run's page on a server in this process; its address, and the server."""
    server = watch_server(WatchedRun(folder, data), **more)
    over = threading.Event()
    thread = threading.Thread(target=server.serve_while, args=[lambda: not over.is_set()])
    thread.start()
    try:
        yield server.address, server
    finally:
        over.set()
        thread.join()


@pytest.fixture
def golden(tmp_path):
    """A copy of the pinned run, which is over, served with its text."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN / "run", folder)
    with served(folder, GOLDEN / "sonnets.txt") as (address, _):
        yield address


def answered(address, path="/progress", method="GET", **headers):
    """Status, headers and body of a request."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def opened(browser, address, width=1280, **more):
    """A tab with the page, and what it asks of others or complains of."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, **more)
    tab.set_default_timeout(PATIENCE * 1000)
    wrong = []
    own = (address, "data:")
    tab.on("request", lambda r: None if r.url.startswith(own) else wrong.append(r.url))
    tab.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.add_init_script(POLICY)
    tab.goto(address)
    return tab, wrong


def painted(tab, canvas):
    """A canvas's pixels, as a hash; and how many of them are not empty."""
    script = "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    script += "return [d.filter((_, i) => i % 4 == 3 && d[i]).length, d.join()] }"
    filled, pixels = tab.eval_on_selector(f"{canvas} canvas", script)
    return filled, hashlib.sha256(pixels.encode()).hexdigest()


def test_a_visitor_watches_a_training_from_its_start_to_its_end(home, browser):
    """The page that `train --watch` serves: the curve grows, the map fills, a place is read, and
    the end is told; the page outlives the training, and its server the page by little."""
    options = ["--run", "w", "--steps", "300", "--checkpoint-every", "25", "--watch", "--seed", "5"]
    environment = os.environ | {"SHAKEGPT_HOME": str(home), "TINY_PAUSE": "0.7"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*TRAIN_TINY, *options], env=environment, cwd=home, **pipes) as training:
        lines = iter(training.stderr.readline, "")
        address = next(line for line in lines if "Watch it learn" in line).split()[-1]
        rest = []
        drained = threading.Thread(target=lambda: rest.append(training.stderr.read()))
        drained.start()
        tab, wrong = opened(browser, address)
        tab.wait_for_selector("#phase[data-phase=training]")
        tab.wait_for_selector("#map-box:not([hidden])")
        steps, curves, levels = (
            tab.inner_text("#steps"),
            painted(tab, "#curves"),
            levels_of(address),
        )
        cells = painted(tab, "#map")
        tab.wait_for_function(
            "text => document.querySelector('#steps').innerText != text", arg=steps
        )
        assert training.poll() is None, "it was to be watched while it trains"
        assert " of at most 300 " in steps and painted(tab, "#curves") != curves
        tab.hover("#map canvas", position={"x": 200, "y": 60})
        tab.wait_for_selector("#context .here")
        assert tab.inner_text("#place").startswith("Line ")
        text = (home / "data" / "tinyshakespeare.txt").read_text()
        place = tab.text_content("#context").strip()
        assert len(place) > 40 and place in text
        tab.wait_for_selector("#phase[data-phase=missed]")
        training.wait()
        drained.join()
    assert tab.inner_text("#steps").startswith("step 300 of 300")
    assert f"{address} stays while a browser shows it." in rest[0]
    end = newest_progress(home / "weights" / "w", None)
    assert (
        levels_of(address) == loss_levels.levels_of(end.losses).tobytes() != levels
        and end.step == 300
    )
    assert painted(tab, "#map") != cells and not wrong
    # Its server is still there for this page.
    tab.hover("#map canvas", position={"x": 300, "y": 30})
    tab.wait_for_function("old => document.querySelector('#context').textContent != old", arg=place)
    assert not wrong
    tab.close()
    (server,) = watchers(home / "weights" / "w")
    os.kill(server, signal.SIGTERM)


def levels_of(address):
    return answered(address, "/map")[2]


def watchers(folder):
    """The processes that serve a run's page beside a training that is over."""
    listed = subprocess.run(
        ["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True
    )
    mine = [line for line in listed.stdout.splitlines() if "watch_beside" in line]
    return [int(line.split()[0]) for line in mine if str(folder) in line]


def test_a_training_that_is_watched_is_bit_for_bit_the_same_and_leaves_no_server(home):
    weights = {}
    for name, more in (("alone", []), ("watched", ["--watch"])):
        options = ["--run", name, "--steps", "60", "--seed", "5", *more]
        environment = os.environ | {"SHAKEGPT_HOME": str(home)}
        done = subprocess.run(
            [*TRAIN_TINY, *options],
            env=environment,
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert ("Watch it learn at http://127.0.0.1:" in done.stderr) == bool(more)
        folder = home / "weights" / name
        weights[name] = (folder / "model.safetensors").read_bytes()
        losses = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        weights[name] = weights[name], [(e["step"], e.get("loss"), e.get("norm")) for e in losses]
    assert weights["alone"] == weights["watched"]
    deadline = time.monotonic() + PATIENCE
    while watchers(home / "weights" / "watched") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not watchers(home / "weights" / "watched")


def test_the_server_beside_a_training_goes_once_nobody_looks(tmp_path):
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN / "run", folder)
    code = f"from mlx_shakegpt.sharing.watch_beside import serve; serve({str(folder)!r}, '', 1.5)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        address = process.stdout.readline().strip()
        assert answered(address)[0] == 200
        process.stdin.close()  # the training's process is gone
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.returncode == 0


def test_a_training_goes_on_where_no_page_can_be_served(tmp_path):
    heard = []
    with watch_beside.page_beside(tmp_path / "nothing", False, heard.append):
        heard.append("trained")
    assert heard[0].startswith("Warning: there is no page to watch: ") and heard[1:] == ["trained"]


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1400, "dark")])
def test_the_page_fits_a_phone_and_a_desk_in_light_and_dark(golden, browser, width, scheme):
    tab, wrong = opened(browser, golden, width, color_scheme=scheme, reduced_motion="reduce")
    tab.wait_for_selector("#map-box:not([hidden])")
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == (scheme == "dark")
    assert painted(tab, "#map")[0] > 5000 and painted(tab, "#curves")[0] > 5000
    moving = "document.getAnimations().filter(a => a.playState == 'running').length"
    assert tab.evaluate(moving) == 0
    assert tab.inner_text("#paper-title") == "✓ Certified"
    assert not wrong


def test_the_page_is_used_by_keys_alone(golden, browser):
    tab, wrong = opened(browser, golden)
    tab.wait_for_selector("#map-box:not([hidden])")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "map"
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("#context .here")
    assert "token 2 of 328" in tab.inner_text("#place")
    assert tab.get_attribute("#map", "aria-valuenow") == "2"
    assert "a probability of" in tab.get_attribute("#map", "aria-valuetext")
    tab.keyboard.press("End")
    tab.wait_for_function("document.querySelector('#place').innerText.includes('token 328 of 328')")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "curves"
    tab.keyboard.press("Home")
    assert tab.inner_text("#numbers").startswith("Step 1: loss ")
    tab.click("summary")
    assert tab.locator("#table tbody tr").count() == 60
    assert not wrong


def test_what_a_file_says_is_no_html_and_a_lost_server_is_told(tmp_path, browser):
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN / "run", folder)
    config = json.loads((folder / "config.json").read_text())
    config["preset"] = "<img src=x onerror=alert(1)>"
    (folder / "config.json").write_text(json.dumps(config))
    with open(folder / "samples.jsonl", "a") as file:
        file.write(json.dumps({"step": 7, "sample": "<script>alert(2)</script>"}) + "\n")
    with served(folder, GOLDEN / "sonnets.txt") as (address, _):
        tab, wrong = opened(browser, address)
        tab.wait_for_selector("#samples:not([hidden])")
        assert tab.inner_text("#said p") == "<script>alert(2)</script>"
        assert "<img src=x" in tab.inner_text("#about") and not tab.query_selector("#about img")
        assert not wrong
    tab.wait_for_selector("#phase[data-phase=lost]")
    assert "Serve it again with the command: watch golden" in tab.inner_text("#notice")


def test_only_its_own_page_may_ask(golden):
    port = golden.rpartition(":")[2]
    assert answered(golden)[0] == answered(golden, Host=f"localhost:{port}")[0] == 200
    for name in (f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"0.0.0.0:{port}", ""):
        for path in ("/", "/progress", "/map", "/tokens"):
            assert answered(golden, path, Host=name)[0] == 421, name
    assert answered(golden, Origin=golden)[0] == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{port}"):
        assert answered(golden, Origin=origin)[0] == 403, origin
    elsewhere = {"Sec_Fetch_Site": "cross-site"}
    assert answered(golden, **elsewhere, Sec_Fetch_Dest="script")[0] == 403
    assert answered(golden, "/", **elsewhere, Sec_Fetch_Dest="document")[0] == 200
    assert_loopback_only(int(port))


def test_nothing_but_its_own_script_and_style_runs(golden):
    status, headers, body = answered(golden, "/")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and body == PAGE.read_bytes()
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"
    assert not [
        line for line in body.decode().splitlines() if "http" in line and "w3.org" not in line
    ]


def test_requests_that_are_not_the_pages_get_a_status(golden):
    assert answered(golden, "/etc/passwd")[0] == answered(golden, "/../config.json")[0] == 404
    assert answered(golden, method="POST")[0] == 501
    for query in ("steps=-1", "steps=x", f"samples={10**12}", "evaluations=" + "9" * 5000):
        status, _, body = answered(golden, f"/progress?{query}")
        assert status == 400 and b"must be a whole number" in body
    assert answered(golden, "/progress?" + "&".join("a=1" for _ in range(20)))[0] == 400
    assert json.loads(answered(golden, "/tokens?start=5&stop=2")[2])["text"] == []
    assert answered(golden)[0] == 200
    _, headers, levels = answered(golden, "/map")
    version = json.loads(answered(golden)[2])["map"]["version"]
    assert len(levels) == 328 and headers["ETag"] == f'"{version}"'


def test_a_taken_port_is_one_line_and_without_one_the_next_is_taken(home, shakegpt):
    shutil.copytree(GOLDEN / "run", home / "weights" / "golden")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        failed = shakegpt("watch", "golden", "--port", busy.getsockname()[1])
    assert failed.code == 2 and failed.err.count("\n") == 1, failed.err
    assert "cannot listen on 127.0.0.1" in failed.err and "choose another --port" in failed.err
    watched = WatchedRun(home / "weights" / "golden")
    with watch_server(watched) as first, watch_server(watched) as second:
        assert first.server_port < second.server_port
    with pytest.raises(ValueError, match="choose another `port` or `host`"):
        WatchServer(watched, "192.0.2.1", free_port())
    with pytest.raises(ValueError, match=f"port {PORTS[0]}: "):  # not each of a hundred
        watch_server(watched, "192.0.2.1")


def test_ctrl_c_ends_it_cleanly(home):
    shutil.copytree(GOLDEN / "run", home / "weights" / "golden")
    for run in ("golden", str(home / "weights" / "golden"), None):
        command = [sys.executable, "cli.py", "watch", "--no-open", *([run] if run else [])]
        environment = os.environ | {"SHAKEGPT_HOME": str(home)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
            line = process.stdout.readline()
            assert line.startswith("golden is shown at http://127.0.0.1:"), process.stderr.read()
            assert answered(line.split()[-1])[0] == 200
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0 and errors == "Ctrl-C ends it.\n"


def test_a_run_that_is_not_there_is_one_line(home, shakegpt, tmp_path):
    for arguments, words in (
        ([], "no run yet; train one with"),
        (["soup"], "no run 'soup' in"),
        ([f"{tmp_path}/soup"], "no such file"),
    ):
        failed = shakegpt("watch", "--no-open", *arguments)
        assert failed.code == 2 and words in failed.err and failed.err.count("\n") == 1, failed.err
