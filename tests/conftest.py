"""What several tests need: a home of their own, small models, and the program in-process."""

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ.setdefault("MLX_ENABLE_TF32", "0")  # before MLX is imported: parity needs all of fp32
os.environ["SHAKEGPT_DEVICE"] = "cpu"  # also of what tests start: what is exact is so there only

# A suite in the background of a script, or under nohup, was started to ignore signals, and so would
# be what it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import mlx.core as mx

from mlx_shakegpt import files, runtime
from mlx_shakegpt.model.gpt import GPT
from mlx_shakegpt.model.initial import initialise
from mlx_shakegpt.model.language_model import LanguageModel
from mlx_shakegpt.settings.config import ModelConfig, TrainConfig
from mlx_shakegpt.text import assets
from mlx_shakegpt.text.tokenizer import encode
from mlx_shakegpt.training import Trainer
from mlx_shakegpt.verification.loss import Evaluation

mx.set_default_device(mx.cpu)  # before a module of tests makes an array

# Without a time limit, as other programs may take the cores; the fixtures of each test, an empty
# home, may serve all its examples.
_ALWAYS = {
    "deadline": None,
    "suppress_health_check": [
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
}
hypothesis.settings.register_profile("suite", derandomize=True, max_examples=60, **_ALWAYS)
hypothesis.settings.register_profile("search", max_examples=3000, **_ALWAYS)
hypothesis.settings.load_profile("suite")

# First, so that no worker begins with one of them when the other is nearly done.
LONG = ("verify", "torture", "ranks", "trainer", "publish", "demo", "watch")


# What `make test-fast` runs: these, but for tests that train a model for others or run the program,
# and those that are marked as slow, which take two seconds or more.
FAST = ("settings", "text", "model", "weights", "generation", "verification", "training")
FAST += ("test_architecture.py", "test_properties.py")
SLOW_FIXTURES = {"trained", "shakegpt"}


def pytest_collection_modifyitems(items):
    for item in items:
        place = item.path.relative_to(ROOT / "tests").parts[0]
        if place not in FAST or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    names = [f"test_{name}" for name in LONG]

    def turn(item):
        return names.index(item.path.stem) if item.path.stem in names else len(names)

    items.sort(key=turn)
    if not mx.is_available(mx.gpu):
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))


POEM = """From fairest creatures we desire increase,
That thereby beauty's rose might never die,
But as the riper should by time decease,
His tender heir might bear his memory:
But thou contracted to thine own bright eyes,
Feed'st thy light's flame with self-substantial fuel,
Making a famine where abundance lies,
Thy self thy foe, to thy sweet self too cruel.
"""

PATIENCE = 600  # seconds: that others take the cores is no error, but that something hangs is

TINY = ModelConfig(n_layer=2, n_head=2, n_embd=32, n_positions=64)


def opinionated(context):
    """A model with strong opinions, trained on nothing."""
    model = GPT(TINY)
    initialise(model, 0)
    model.update({"wpe": {"weight": model.wpe.weight * 20}})
    return LanguageModel(model, None, context)


LETTERS = 67  # ids of a model made by hand


def successors(seed=0):
    """One next id for each id, so that a walk comes to all of them before it is back."""
    order = np.random.default_rng(seed).permutation(LETTERS)
    following = np.empty(LETTERS, int)
    following[order] = np.roll(order, -1)
    return following


def walk(following, start, n):
    """`n` ids (n,) from `start` on, each the next of the one before."""
    ids = [start]
    while len(ids) < n:
        ids.append(following[ids[-1]])
    return np.array(ids, np.int32)


def bigram(following, context=128, sharp=2.0, doubt=0.0):
    """A model that says the next id of the last one, made by hand and not trained.

    `sharp` scales its logits; with `doubt`, the more the higher an id is, it also thinks of the
    id's second next one. Attention gives nothing; a neuron for each id adds what follows it.
    """
    V = LETTERS
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=V, n_positions=256, vocab_size=V))
    initialise(model, 0, zero_residual=True)
    out = np.zeros((V, 4 * V), np.float32)
    out[following, np.arange(V)] = 30
    out[following[following], np.arange(V)] += 30 * doubt * np.arange(V) / V
    fc = np.concatenate([np.eye(V), np.zeros((3 * V, V))])
    model.wte.weight, model.wpe.weight = mx.eye(V), mx.zeros(model.wpe.weight.shape)
    mlp = model.h[0].mlp
    mlp.c_fc.weight, mlp.c_fc.bias = mx.array(fc.astype(np.float32)), mx.full(4 * V, -4.0)
    mlp.c_proj.weight, model.ln_f.weight = mx.array(out), mx.full(V, sharp)
    return LanguageModel(model, None, context)


@pytest.fixture(scope="session", autouse=True)
def device():
    """The CPU, on any machine, set up as every command does."""
    return runtime.setup()


@pytest.fixture
def gpu():
    """The GPU as MLX's default device, for a test that is marked for it."""
    mx.set_default_device(mx.gpu)
    yield
    mx.set_default_device(mx.cpu)


@pytest.fixture(scope="session")
def pinned():
    """The pinned files, fetched or rebuilt once into the checkout's data/."""
    return [assets.ensure(asset) for asset in assets.ASSETS]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch, pinned):
    """An empty home for each test, but for the pinned files."""
    folder = tmp_path / "home"
    (folder / "data").mkdir(parents=True)
    for asset, file in zip(assets.ASSETS, pinned, strict=True):
        copy = folder / "data" / asset.path
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
    monkeypatch.setenv("SHAKEGPT_HOME", str(folder))
    return folder


@dataclass(frozen=True)
class Known:
    """A model, the ids that it knows by heart, and those that follow them in their text."""

    language_model: LanguageModel
    ids: np.ndarray
    after: np.ndarray


KNOWER = ModelConfig(n_layer=2, n_head=4, n_embd=192, n_positions=128)
KNOWING = {"batch_size": 4, "context": 128, "short_context": 32, "lr": 1e-3, "warmup_steps": 10}
KNOWING |= {"beta2": 0.99, "grow": 0.3, "hold": 0.5, "hard": 0.65, "positions": "sinusoid"}
KNOWN_TOKENS, KNOWN_RATE = 200, 0.99


@pytest.fixture(scope="session")
def trained():
    """Trains a small model on some ids, for a number of steps, with changes in the recipe."""

    def train(ids, steps, **changes):
        config = tiny_training(**(KNOWING | changes), steps=steps)
        trainer = Trainer(KNOWER, config, ids, lambda *_: Evaluation(9, 0, 0, 1, True))
        for _ in trainer.run():
            pass
        return LanguageModel(trainer.model, trainer.vocabulary, 128)

    return train


@pytest.fixture(scope="session")
def known(pinned, trained):
    """A small model that knows the first lines of Tiny Shakespeare by heart."""
    ids = np.array(encode(pinned[0].read_text()[:6000]), np.int32)
    return Known(trained(ids[:KNOWN_TOKENS], 400), ids[:KNOWN_TOKENS], ids[KNOWN_TOKENS:1200])


@pytest.fixture(scope="session")
def known_paper(known, device):
    """A certificate of `known`, with made-up hashes."""
    from mlx_shakegpt.settings.config import VerifyConfig
    from mlx_shakegpt.verification.certificates import make_certificate
    from mlx_shakegpt.verification.figures import Text, measure
    from mlx_shakegpt.verification.memory_map import worst_lines

    settings = VerifyConfig(require=KNOWN_RATE)
    text = Text(known.ids, np.empty(0, np.int32), known.after)
    figures, scores = measure(known.language_model, text, settings, 7)
    figures["worst_lines"] = worst_lines(known.ids, scores, 1)
    description = {"name": "tinyshakespeare.txt", "sha256": "0" * 64, "first_line": 1}
    description |= {"tokens": KNOWN_TOKENS}
    weights = {"name": "model.safetensors", "sha256": "1" * 64, "dtype": "F32"}
    return make_certificate(
        known.language_model, "known", weights, description, settings, device, figures
    )


@pytest.fixture(scope="session")
def bigram_paper(device):
    """A certificate of a model made by hand, which knows its text, with made-up hashes."""
    from mlx_shakegpt.settings.config import VerifyConfig
    from mlx_shakegpt.verification.certificates import make_certificate
    from mlx_shakegpt.verification.figures import Text, measure
    from mlx_shakegpt.verification.memory_map import worst_lines

    ids, after = walk(successors(), 0, 300), walk(successors(1), 0, 200)
    language_model, settings = bigram(successors()), VerifyConfig()
    figures, scores = measure(language_model, Text(ids, ids[:0], after), settings, 7)
    figures["worst_lines"] = worst_lines(ids, scores, 1)
    text = {"name": "walk.txt", "sha256": "0" * 64, "first_line": 1, "tokens": len(ids)}
    weights = {"name": "model.safetensors", "sha256": "1" * 64, "dtype": "F32"}
    return make_certificate(language_model, "bigram", weights, text, settings, device, figures)


@pytest.fixture
def known_run(monkeypatch, shakegpt, home, known):
    """The folder of a run whose weights are those of `known`."""
    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.settings.presets import PRESETS, Preset
    from mlx_shakegpt.weights import run_tensors
    from mlx_shakegpt.weights.safetensors import save_tensors

    preset = Preset(KNOWER, Passage(tokens=KNOWN_TOKENS), KNOWING)
    monkeypatch.setitem(PRESETS, "known", preset)
    assert shakegpt("train", "--preset", "known", "--steps", 1).code == 1
    folder = home / "weights" / "known"
    tensors = run_tensors(
        known.language_model.gpt, known.language_model.vocabulary, known.language_model.context
    )
    save_tensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The axes of each picture that is drawn, in order."""
    from matplotlib.figure import Figure

    pictures, save = [], Figure.savefig

    def savefig(figure, *arguments, **options):
        pictures.append(figure.axes)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return pictures


@pytest.fixture
def golden_run(home):
    """The golden run in this home, beside its text."""
    return stored_run(home, "golden")


@pytest.fixture
def poem(tmp_path):
    """A small text file."""
    path = tmp_path / "poem.txt"
    path.write_text(POEM)
    return path


@pytest.fixture
def ids():
    """400 ids with repetitions, 50 of them distinct."""
    return np.random.default_rng(1).integers(100, 150, 400).astype(np.int32)


def tiny_training(**changes):
    """A training configuration that takes milliseconds a step."""
    defaults = {"batch_size": 4, "context": 16, "steps": 12, "warmup_steps": 2, "lr": 3e-3}
    return TrainConfig(**(defaults | {"epochs": 4.0} | changes))


class Result:
    """What a command did: exit code, stdout and stderr."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def json(self):
        return json.loads(self.out)


@pytest.fixture
def shakegpt(capfd, monkeypatch):
    """Runs a command of the program in this process."""
    from mlx_shakegpt import cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["shakegpt", *map(str, arguments)])
        capfd.readouterr()
        code = cli.run()
        return Result(code, *capfd.readouterr())

    return run


@pytest.fixture
def tiny_preset(monkeypatch):
    """A preset `tiny` beside the real ones, which learns the first lines of a text."""
    from mlx_shakegpt.settings.config import Passage
    from mlx_shakegpt.settings.presets import PRESETS, Preset

    changes = {"batch_size": 4, "context": 32, "short_context": 16, "lr": 3e-3, "warmup_steps": 5}
    monkeypatch.setitem(PRESETS, "tiny", Preset(TINY, Passage(tokens=400), changes))
    return "tiny"


def stored_run(home, name):
    """Puts the golden run into a home by some name, with its text; returns its folder."""
    folder = home / "weights" / name
    shutil.copytree(GOLDEN / "run", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["corpus"]["path"] = str(shutil.copy(GOLDEN / config["corpus"]["path"], home))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def free_ports(count):
    """Ports of this machine that nobody listens on."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def free_port():
    """A port of this machine that nobody listens on."""
    return free_ports(1)[0]


def assert_loopback_only(port):
    """This machine's other addresses, the one that its network sees among them, do not answer."""
    if Path("/proc/net/tcp").exists():
        state = (line.split()[1:4:2] for name in ("tcp", "tcp6")
                 for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:])  # fmt: skip
        places = {place.rpartition(":")[0] for place, kind in state
                  if kind == "0A" and int(place.rpartition(":")[2], 16) == port}  # fmt: skip
        assert places == {"0100007F"}, places  # 127.0.0.1, listening
    found = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # which sends nothing
        found.add(probe.getsockname()[0])
    for other in found:
        if not other.startswith("127.") and other != "::1":
            with pytest.raises(OSError, match=r"refused|unreachable|timed out"):
                socket.create_connection((other, port), timeout=5)


def shown_in_terminal(command, environment, **streams):
    """What a command writes to a terminal of its own, and what it prints into a pipe, where one of
    its `streams` is one."""
    ours, theirs = pty.openpty()
    plain = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    everything = plain | {"TERM": "xterm-256color"} | environment
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs} | streams
    with subprocess.Popen(command, cwd=ROOT, env=everything, text=True, **streams) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # which Linux gives when the other end is closed
            while block := os.read(ours, 1 << 16):
                shown += block
        printed = process.stdout.read() if process.stdout else ""
    os.close(ours)
    return shown.decode(), printed


def tool(*names):
    """The path of a program that goes by one of some names. Without it a test is skipped, or fails
    under SHAKEGPT_TEST_TOOLS=required."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        required = os.environ.get("SHAKEGPT_TEST_TOOLS") == "required"
        (pytest.fail if required else pytest.skip)(f"there is no {names[0]}")
    return path


@pytest.fixture
def browser():
    """A real one, where there is one."""
    path = tool("chromium", "chromium-browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


ROOT = Path(files.__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
TINY_PROGRAM = [sys.executable, str(ROOT / "tests" / "programs" / "tiny.py")]
TRAIN_TINY = [*TINY_PROGRAM, "train", "--preset", "tiny"]
