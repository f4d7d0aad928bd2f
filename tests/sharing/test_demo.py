"""The page, in a real browser, by clicks; and what the server lets through."""

import asyncio
import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
from conftest import PATIENCE, ROOT, assert_loopback_only, free_port

from mlx_shakegpt.run import of_run
from mlx_shakegpt.sharing import server
from mlx_shakegpt.sharing.marked import marked, plain
from mlx_shakegpt.sharing.own_page import OwnPage
from mlx_shakegpt.sharing.request_limits import LARGEST_REQUEST, LONGEST_PROMPT, MOST_TOKENS
from mlx_shakegpt.text.quotations import Source


@contextmanager
def served(home, *options, **more):
    """The demo in a process of its own, with more of an environment; its address."""
    command = [sys.executable, "cli.py", "demo", "--port", str(free_port()), *options]
    environment = os.environ | {"SHAKEGPT_HOME": str(home)} | more
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if " speaks at " in line:
                break
        else:
            pytest.fail("".join(lines))
        try:
            yield line.split()[-1].rstrip("/")
        finally:
            process.terminate()


def certify(run, paper, **changes):
    """Puts a certificate of the run's model and text into its folder, and a picture as its map."""
    trained = of_run(run.name)
    own = {"text": trained.corpus.description, "weights": trained.hashed()}
    (run / "certificate.json").write_text(json.dumps(paper | own | changes))
    (run / "memory-map.png").write_bytes((run / "loss.png").read_bytes())


def config_of(address):
    """What the page consists of, as text."""
    return urllib.request.urlopen(f"{address}/config").read().decode()


@pytest.fixture
def page(home, known_run, known_paper):
    """A page of the small model that knows its text, certified, and its address."""
    certify(known_run, known_paper)
    with served(home, "--run", "known") as address:
        yield address


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_visitor_hears_the_text_and_sees_where_it_stands(page, browser, tmp_path, scheme):
    tab = browser.new_page(color_scheme=scheme)
    outside, errors = [], []
    own = (page, "data:", "blob:")
    tab.on("request", lambda r: None if r.url.startswith(own) else outside.append(r.url))
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.goto(page)
    tab.fill("#prompt textarea", "")
    tab.click("#examples button:has-text('First Citizen:')")
    tab.wait_for_function("document.querySelector('#prompt textarea').value == 'First Citizen:'")
    tab.click("#speak")
    tab.wait_for_selector("#said mark", timeout=600_000)
    assert "First Citizen:\nBefore we proceed any further, hear me speak." in tab.inner_text(
        "#said"
    )
    assert tab.get_attribute("#said mark >> nth=0", "title").startswith("line 1 of the learned")
    assert "Known word for word: 100%" in tab.inner_text("#said")
    for title in ("Loss curve", "Memory map", "Certificate"):
        tab.click(f"button:has-text('{title}')")
    tab.wait_for_selector("img[alt='Loss curve']")
    assert tab.evaluate("document.querySelector(\"img[alt='Loss curve']\").naturalWidth") > 500
    tab.wait_for_selector("text=CERTIFIED")
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 384) == (scheme == "dark")
    tab.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    assert not outside and not errors


def test_a_damaged_certificate_does_not_keep_the_page_from_being_shown(
    home, known_run, known_paper
):
    certify(known_run, known_paper, free_running=None)
    with served(home, "--run", "known") as address:
        shown = config_of(address)
    assert "certificate.json cannot be read; make it anew" in shown


def test_a_certificate_of_other_weights_is_not_shown(home, known_run, known_paper):
    certify(known_run, known_paper, weights={"name": "model.safetensors", "sha256": "0" * 64})
    with served(home, "--run", "known") as address:
        shown = config_of(address)
    assert "is of another model or text" in shown and "Loss curve" in shown
    assert "CERTIFIED" not in shown and "Memory map" not in shown


def test_a_visitor_is_told_of_an_empty_prompt_and_writes_no_html(page, browser):
    tab = browser.new_page()
    tab.goto(page)
    tab.fill("#prompt textarea", "")
    tab.click("#speak")
    tab.wait_for_selector("text=Give at least one character")
    tab.fill("#prompt textarea", "zzz<b>qq</b>")
    tab.click("#speak")
    tab.wait_for_selector("#said .told")
    assert tab.inner_text("#said").startswith("zzz<b>qq</b>")


def test_a_visitor_stops_the_model(home, known_run, browser, monkeypatch):
    module = sys.modules["mlx_shakegpt.sharing.page"]
    real, made = module.stream, []

    def slowly(*arguments):  # a large model, on which a visitor may lose patience
        for token in real(*arguments):
            time.sleep(0.3)
            made.append(token)
            yield token

    monkeypatch.setattr(module, "stream", slowly)
    blocks = server.serve(of_run("known"), port=free_port())
    try:
        tab = browser.new_page()
        tab.goto(blocks.local_url)
        for beginning in ("First Citizen:", "Speak,"):
            made.clear()
            tab.fill("#prompt textarea", beginning)
            tab.click("#speak")
            tab.wait_for_function("document.querySelector('#said').innerText.length > 25")
            tab.click("#stop")
            deadline, heard = time.monotonic() + PATIENCE, -1
            while len(made) != heard and time.monotonic() < deadline:
                heard = len(made)
                time.sleep(1)
            assert 0 < len(made) == heard < 100, "it went on"
            assert tab.query_selector("#said .told") is None  # which stands at a text's end
    finally:
        blocks.close()


def ask(page, body):
    request = urllib.request.Request(
        f"{page}/gradio_api/call/say", body, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, None


def event(page, data):
    """What the page's function says to a request with some data."""
    _, answer = ask(page, json.dumps({"data": data}).encode())
    address = f"{page}/gradio_api/call/say/{answer['event_id']}"
    with urllib.request.urlopen(address, timeout=PATIENCE) as response:
        return response.read().decode()


def test_requests_are_bounded(page):
    assert ask(page, b" " * (LARGEST_REQUEST + 1))[0] == 413
    heard = event(page, ["First Citizen:", 10**9, 0, 0])
    assert heard.startswith("event: error")
    heard = event(page, ["x" * (LONGEST_PROMPT + 1), 20, 0, 0])
    assert heard.startswith("event: error")
    heard = event(page, ["x" * LONGEST_PROMPT, MOST_TOKENS, 0, 0])
    assert "event: complete" in heard and "Known word for word" in heard
    assert_loopback_only(int(page.rpartition(":")[2]))


def status_of(page, method="GET", path="/config", body=None, **headers):
    """The status of a request with other headers than a browser's on the page itself."""
    connection = http.client.HTTPConnection(page.removeprefix("http://"), timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_its_own_page_may_ask(page, tmp_path):
    port = page.rpartition(":")[2]
    assert status_of(page) == status_of(page, Host=f"localhost:{port}") == 200
    for name in (f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"0.0.0.0:{port}", ""):
        assert status_of(page, Host=name) == 421, name
        assert status_of(page, "POST", "/gradio_api/call/say", b"{}", Host=name) == 421, name
    assert status_of(page, Origin=page) == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", f"https{page[4:]}"):
        assert status_of(page, Origin=origin) == 403, origin
        assert status_of(page, "POST", "/gradio_api/call/say", b"{}", Origin=origin) == 403
        assert status_of(page, "OPTIONS", Origin=origin) == 403
    elsewhere = {"Sec_Fetch_Site": "cross-site"}
    assert status_of(page, **elsewhere, Sec_Fetch_Dest="image") == 403
    assert status_of(page, **elsewhere, Sec_Fetch_Dest="iframe") == 403
    assert status_of(page, path="/", **elsewhere, Sec_Fetch_Dest="document") == 200
    assert status_of(page, Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="empty") == 200


def test_nothing_can_be_uploaded_and_what_lies_about_is_private_and_goes(
    home, known_run, known_paper, tmp_path
):
    certify(known_run, known_paper)
    (tmp_path / "scratch").mkdir()
    file = (
        b'--x\r\ncontent-disposition: form-data; name="files"; filename="a"\r\n\r\nhi\r\n--x--\r\n'
    )
    kind = {"Content_Type": "multipart/form-data; boundary=x"}
    with served(home, "--run", "known", TMPDIR=str(tmp_path / "scratch")) as address:
        for path in ("/gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload_progress"):
            assert status_of(address, "POST", path, file, **kind) == 404
        (folder,) = (tmp_path / "scratch").iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        names = {path.name for path in folder.rglob("*") if path.is_file()}
        assert names == {"certificate.json", "loss.png", "memory-map.png"}
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("bound", "host", "answered"),
    [
        ("0.0.0.0", "192.168.1.5:8080", True),
        ("0.0.0.0", "[fe80::1]:7860", True),
        ("0.0.0.0", "[fe80::1]", True),
        ("0.0.0.0", f"{socket.gethostname()}:7860", True),
        ("0.0.0.0", "localhost:8000", True),
        ("0.0.0.0", "evil.example:7860", False),
        ("box.lan", "box.lan:7860", True),
        ("::1", "[::1]:7860", True),
        ("127.0.0.2", "127.0.0.2:7860", True),
        ("127.0.0.1", "192.168.1.5:7860", False),
        ("127.0.0.1", "LOCALHOST:7860", True),
        (None, "someone-romeo.hf.space", True),
    ],
)
def test_names_that_a_server_goes_by(bound, host, answered):
    heard = []

    async def app(scope, receive, send):
        heard.append(200)

    async def send(message):
        heard.append(message.get("status"))

    scope = {"type": "http", "path": "/", "server": ("10.0.0.1", 7860)}
    scope["headers"] = [(b"host", host.encode())]
    for origin in (None, f"http://{host}"):
        if origin:
            scope["headers"].append((b"origin", origin.encode()))
        asyncio.run(OwnPage(app, bound)(scope, None, send))
    assert heard == ([200, 200] if answered else [421, None] * 2)
    scope["headers"][0] = (b"host", b"b:7860")
    scope["headers"].append((b"host", host.encode()))
    heard.clear()
    asyncio.run(OwnPage(app, bound)(scope, None, send))
    assert heard[0] == (421 if bound else 200)


def test_a_taken_port_is_one_line(home, known_run):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        command = [sys.executable, "cli.py", "demo", "--port", str(busy.getsockname()[1])]
        environment = os.environ | {"SHAKEGPT_HOME": str(home)}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "port" in errors[0]
    assert "Traceback" not in done.stderr


def test_marks_escape_what_is_said():
    source = Source("one two <b>three</b> four five six", 7)
    html = marked("one ", "two <b>three</b> four five six & more", source)
    assert '<mark title="line 7 of the learned text, 13 words">' in html
    assert "<b>" not in html and "&amp; more" in html and "Known word for word: 8" in html
    assert "<i>" not in plain("<i>", "<i>")
