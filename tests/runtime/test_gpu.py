"""The GPU's branch of the program, on any machine; and what only a real GPU can show."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from conftest import PATIENCE, ROOT, TINY_PROGRAM

from mlx_shakegpt.cli import data
from mlx_shakegpt.cli.gpu import lost_gpu, no_backend
from mlx_shakegpt.files import must_be_empty
from mlx_shakegpt.model import ops
from mlx_shakegpt.run.plan import must_fit
from mlx_shakegpt.run.planning import plan_run
from mlx_shakegpt.runtime import device as device_module
from mlx_shakegpt.runtime import memory
from mlx_shakegpt.training import gradient_check


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
        ("[malloc] Unable to allocate 9 bytes.", "smaller --batch-size"),
        ("[metal::malloc] Resource limit (499000) exceeded.", "smaller --batch-size"),
        ("cudaStreamSynchronize(s) failed: unspecified launch failure", "the GPU failed"),
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


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", gradient_check.TOLERANCE)
@pytest.mark.parametrize("name", gradient_check.CHECKS)
def test_gradients_on_a_gpu_are_those_of_float64(gpu, name, dtype):
    result = gradient_check.checked(gradient_check.CHECKS[name](dtype), dtype, 60.0)
    assert result["passed"] and result["repeats"] == gradient_check.REPEATS, result


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_learns(home, dtype):
    command = [
        *TINY_PROGRAM,
        "train",
        "--preset",
        "tiny",
        "--steps",
        "150",
        "--run",
        "r",
        "--dtype",
        dtype,
    ]
    environment = os.environ | {"SHAKEGPT_DEVICE": "gpu", "SHAKEGPT_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    lines = (home / "weights" / "r" / "metrics.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert losses[-1] < 0.5 * losses[0]


def test_quick_is_float32_on_every_device_unless_another_is_asked_for(device):
    on_a_gpu = replace(device, device="gpu", dtype="bfloat16")

    def dtype(**settings):
        return plan_run(on_a_gpu, {"data": None, **settings}).config.dtype

    assert dtype(preset="quick") == "float32"
    assert dtype(preset="quick", dtype="bfloat16") == "bfloat16"
    assert dtype(preset="gpt2-124m") == "bfloat16"


def test_a_device_is_chosen_by_name(monkeypatch):
    monkeypatch.setattr(mx, "is_available", lambda _: False)
    for chosen in ("gpu", "abacus"):
        monkeypatch.setenv("SHAKEGPT_DEVICE", chosen)
        with pytest.raises(ValueError, match=f"SHAKEGPT_DEVICE is {chosen}; it must be cpu here"):
            device_module.setup.__wrapped__()
    chosen = []
    monkeypatch.setattr(mx, "set_default_device", chosen.append)
    monkeypatch.setattr(mx, "is_available", lambda _: True)
    for name in ("cpu", "gpu", ""):
        monkeypatch.setenv("SHAKEGPT_DEVICE", name)
        device_module.use_chosen_device()
    assert chosen == [mx.cpu, mx.gpu]


def test_too_little_memory_on_a_card_is_refused_with_what_fits(monkeypatch, device):
    """As CUDA answers: bytes that are free on the card, whoever has taken the others."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(
        mx, "device_info", lambda: {"free_memory": 4 << 30, "total_memory": 24 << 30}
    )
    on_a_gpu = replace(device, device="gpu", dtype="bfloat16")
    plan = plan_run(on_a_gpu, {"preset": "gpt2-124m"})
    with pytest.raises(ValueError, match=r"GB are free; use `batch_size` \d+ ") as refusal:
        must_fit(plan, on_a_gpu, 1, memory.free_bytes())
    size = int(re.search(r"`batch_size` (\d+)", str(refusal.value))[1])
    assert 1 <= size < plan.config.batch_size
    must_fit(replace(plan, config=replace(plan.config, batch_size=size)), on_a_gpu, 1, 4 << 30)


def test_mlx_without_a_backend_is_one_line_with_what_to_install():
    missing = "libmlx.so: cannot open shared object file: No such file or directory"
    assert "mlx-shakegpt[cpu]" in no_backend(missing) and "[cuda]" in no_backend(missing)
    assert no_backend("No module named 'gradio'") is None
