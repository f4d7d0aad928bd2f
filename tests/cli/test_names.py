"""Names and texts that are not ASCII, where the locale or the file system knows no better."""

import ast
import json
import os
import subprocess
import sys

import pytest
from conftest import KNOWN_RATE, POEM, ROOT

from mlx_shakegpt.files import as_text
from mlx_shakegpt.weights import learned_text

ASCII = {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONIOENCODING": "", "PYTHONCOERCECLOCALE": "0"}
LATIN = os.fsdecode(b"Gedicht-f\xfcr-dich.txt")
UTF8 = "Gedicht-für-dich.txt"


@pytest.fixture
def in_ascii(home):
    """Runs a command of the program in a process whose locale has ASCII alone."""

    def run(*arguments):
        command = [sys.executable, "cli.py", *map(str, arguments)]
        environment = os.environ | ASCII | {"SHAKEGPT_HOME": str(home)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    return run


def rename_text(run, text):
    """Makes a run remember another file as its text."""
    config = json.loads((run / "config.json").read_text())
    config["corpus"] |= {"name": as_text(text.name), "path": str(text)}
    (run / "config.json").write_text(json.dumps(config))


def test_an_ascii_locale_exports_and_speaks(in_ascii, known_run, tmp_path):
    corpus = json.loads((known_run / "config.json").read_text())["corpus"]
    text = tmp_path / UTF8
    text.write_bytes((known_run.parents[1] / "data" / corpus["name"]).read_bytes())
    rename_text(known_run, text)
    exported = in_ascii("export", "--run", "known", "--to", tmp_path / "model")
    assert exported.returncode == 0, exported.stderr
    assert learned_text(tmp_path / "model")["name"] == UTF8
    vocabulary = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    assert vocabulary["model"]["vocab"]["Ġthe"] == 262
    spoken = in_ascii("generate", "Don’t", "--model", tmp_path / "model", "--max-tokens", 4)
    assert spoken.returncode == 0 and "Don" in spoken.stdout, spoken.stderr


def test_a_text_whose_name_is_not_utf8_is_verified_and_exported(shakegpt, known_run, tmp_path):
    corpus = json.loads((known_run / "config.json").read_text())["corpus"]
    text = tmp_path / LATIN
    text.write_bytes((known_run.parents[1] / "data" / corpus["name"]).read_bytes())
    rename_text(known_run, text)
    verified = shakegpt("verify", "--require", KNOWN_RATE)
    assert verified.code == 0, verified.err
    paper = json.loads((known_run / "certificate.json").read_text(encoding="utf-8"))
    assert paper["text"]["name"] == "Gedicht-f\ufffdr-dich.txt"
    assert shakegpt("export", "--to", tmp_path / "model").code == 0
    assert learned_text(tmp_path / "model")["name"] == "Gedicht-f\ufffdr-dich.txt"


def test_a_text_whose_name_is_not_utf8_can_be_learned(shakegpt, tiny_preset, tmp_path, home):
    text = tmp_path / LATIN
    text.write_text(POEM * 5)
    options = ["--data", text, "--corpus-tokens", 300, "--steps", 1, "--run", "odd"]
    first = shakegpt("train", "--preset", tiny_preset, *options)
    assert first.code == 1, first.err
    resumed = shakegpt("train", "--run", "odd", "--resume", "--steps", 2)
    assert resumed.code == 1 and "after 2 steps" in resumed.out, resumed.err
    corpus = json.loads((home / "weights" / "odd" / "config.json").read_text())["corpus"]
    assert corpus["name"] == "Gedicht-f\ufffdr-dich.txt" and corpus["path"] == str(text)


TEXT_FILES = {"read_text", "write_text", "open", "fdopen", "NamedTemporaryFile"}


def opens_text(call):
    """Whether a call opens a text file, or talks in text with another process."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    keywords = {keyword.arg for keyword in call.keywords}
    if name not in TEXT_FILES:
        return "text" in keywords and name in ("run", "Popen", "check_output")
    if name == "open" and not isinstance(call.func, ast.Name):  # os.open has no text
        return False
    modes = call.args[name != "NamedTemporaryFile" :][:1] if "text" not in name else []
    return not any("b" in mode.value for mode in modes)


def test_every_text_file_is_opened_as_utf8():
    """Ruff's rule for it does not see a path that is made in the same expression."""
    checked = 0
    for folder in ("mlx_shakegpt", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and opens_text(node):
                    checked += 1
                    named = any(keyword.arg == "encoding" for keyword in node.keywords)
                    assert named, f"{path}:{node.lineno} names no encoding"
    assert checked > 20
