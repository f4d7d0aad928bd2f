"""The GPU's branch of the program, on any machine; and what only a real GPU can show."""

import json
import os
import shutil
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
from conftest import PATIENCE, ROOT

from mlx_shakegpt.cli import data
from mlx_shakegpt.cli.gpu import lost_gpu
from mlx_shakegpt.files import must_be_empty
from mlx_shakegpt.model import ops
from mlx_shakegpt.runtime import memory

needs_gpu = pytest.mark.skipif(
    not mx.metal.is_available() and not mx.cuda.is_available(), reason="no GPU"
)


@pytest.fixture(scope="module")
def as_on_a_gpu(tmp_path_factory):
    """Runs a command of the program as on a GPU; its exit code, stdout and stderr."""
    home = tmp_path_factory.mktemp("gpu")
    shutil.copytree(ROOT / "data", home / "data")
    # Uncompiled, as MLX's own kernels for the CPU would take longer to compile than to run.
    environment = os.environ | {"SHAKEGPT_HOME": str(home), "MLX_DISABLE_COMPILE": "1"}
    program = [sys.executable, str(ROOT / "tests" / "programs" / "tiny_gpu.py")]

    def run(*arguments):
        done = subprocess.run(
            [*program, *map(str, arguments)], env=environment,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    run.home = home
    return run


def test_the_whole_program_runs_the_branch_of_a_gpu(as_on_a_gpu, pinned):
    train = ("train", "--preset", "tiny", "--run", "r", "--batch-size", "4", "--short-context", "0")
    code, _, errors = as_on_a_gpu(*train, "--steps", "6", "--checkpoint-every", "3")
    assert code == 1 and "for this GPU" in errors, errors
    folder = as_on_a_gpu.home / "weights" / "r"
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    code, _, errors = as_on_a_gpu(*train, "--steps", "60", "--resume")
    assert code in (0, 1), errors
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 60 and losses[-1] < 0.8 * losses[0]
    weights = mx.load(str(folder / "model.safetensors"))
    assert weights["h.0.attn.c_attn.weight"].dtype == mx.bfloat16
    code, out, errors = as_on_a_gpu("generate", "ROMEO:", "--run", "r", "--max-tokens", "5")
    assert code == 0 and out.startswith("ROMEO:"), errors
    code, out, errors = as_on_a_gpu("verify", "--run", "r", "--samples", "20", "--json")
    assert code == 1, errors
    figures = json.loads(out)
    assert not figures["certified"] and figures["free_running_agrees"]
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["weights"]["dtype"] == "BF16" and certificate["device"] == "gpu"
    code, _, errors = as_on_a_gpu("export", "--run", "r", "--to", as_on_a_gpu.home / "out")
    assert code == 0 and (as_on_a_gpu.home / "out" / "model.safetensors").exists(), errors


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (
            "[METAL] Command buffer execution failed: Impacting Interactivity (0000000e:"
            "kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            "macOS took the GPU away",
        ),
        (
            "[METAL] Command buffer execution failed: Insufficient Memory (00000008:"
            "kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "smaller --batch-size",
        ),
        ("[metal::malloc] Attempting to allocate 9 bytes which is greater", "smaller --batch-size"),
        ("cudaMallocAsync(&p, n, s) failed: out of memory", "smaller --batch-size"),
        ("cudaGraphLaunch(g, s) failed: CUDA error 719", "the GPU failed"),
    ],
)
def test_a_lost_gpu_is_one_line_with_what_to_do(message, advice):
    line = lost_gpu(message)
    assert advice in line and "--resume" in line and "\n" not in line


def test_other_errors_are_not_taken_for_a_lost_gpu():
    assert lost_gpu("[matmul] Last dimension of first input must match") is None


def test_the_command_line_says_so_and_exits_1(shakegpt, monkeypatch):
    def fail(**_):
        raise RuntimeError("[METAL] Command buffer execution failed: x")

    monkeypatch.setattr(data.command, "callback", fail)
    result = shakegpt("data")
    assert result.code == 1
    assert result.err.startswith("Error: macOS took the GPU away") and result.err.count("\n") == 1


def test_free_memory_is_what_a_cuda_card_has_free(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx, "device_info", lambda: {"free_memory": 5 << 30})
    assert memory.free_bytes() == (5 << 30) + mx.get_cache_memory()
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 6 << 30})
    assert memory.free_bytes() == (6 << 30) - mx.get_active_memory()


def test_what_finder_leaves_in_a_folder_does_not_count(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".DS_Store").write_bytes(b"x")
    must_be_empty(folder)
    (folder / "mine").touch()
    with pytest.raises(ValueError, match="not an empty folder"):
        must_be_empty(folder)


def test_gradients_of_weights_lie_as_the_weights_do():
    x, w = (
        mx.random.normal((6, 4)).astype(mx.bfloat16),
        mx.random.normal((3, 4)).astype(mx.bfloat16),
    )
    gradient = mx.grad(lambda w: ops.linear(x, w).sum())(w)
    mx.eval(gradient)
    expected = np.ones((6, 3)).T @ np.array(x.astype(mx.float32))
    assert np.array(gradient.astype(mx.float32)) == pytest.approx(expected, rel=0.02, abs=0.02)
    assert memoryview(gradient.view(mx.uint16)).c_contiguous


@needs_gpu
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gradients_on_a_gpu_are_those_of_float64(dtype):
    """LayerNorm's bias and the embedding's rows, beside sums in float64."""
    rng = np.random.default_rng(0)
    tolerance = 1e-3 if dtype == mx.float32 else 3e-2
    x = rng.normal(size=(64, 32))
    weights = rng.normal(size=(64, 32))
    bias = mx.grad(
        lambda b: (
            ops.layer_norm(mx.array(x, dtype), mx.ones(32, dtype), b, 1e-5)
            * mx.array(weights, dtype)
        ).sum()
    )(mx.zeros(32, dtype))
    scale = np.abs(weights).sum(0)
    error = np.abs(np.array(bias.astype(mx.float32)) - weights.sum(0)) / scale
    assert error.max() < tolerance
    rows = rng.integers(0, 5, 64)
    table = mx.grad(lambda t: (t[mx.array(rows)] * mx.array(weights, dtype)).sum())(
        mx.zeros((5, 32), dtype)
    )
    expected = np.zeros((5, 32))
    np.add.at(expected, rows, weights)
    assert np.abs(np.array(table.astype(mx.float32)) - expected).max() < 20 * tolerance


@pytest.mark.parametrize(("system", "started"), [("darwin", True), ("linux", False)])
def test_a_mac_is_kept_awake_while_it_trains(monkeypatch, system, started):
    from mlx_shakegpt.cli.long import awake

    calls = []
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("subprocess.Popen", calls.append)
    with awake():
        pass
    expected = ["/usr/bin/caffeinate", "-i", "-w", str(os.getpid())]
    assert calls == ([expected] if started else [])
