import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_shakegpt import runtime
from mlx_shakegpt.runtime import blas, memory
from mlx_shakegpt.runtime import device as device_module
from mlx_shakegpt.settings.presets import preset, recipe
from mlx_shakegpt.training import cost

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")


@linux
def test_products_go_to_openblas_and_are_right(device):
    assert device.blas.fast and "OpenBLAS" in device.blas.name
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(130, 70)), rng.normal(size=(70, 90))
    assert np.abs(np.array(mx.array(a, mx.float32) @ mx.array(b, mx.float32)) - a @ b).max() < 1e-4
    assert (
        np.abs(np.array(mx.array(b, mx.float32).T @ mx.array(a, mx.float32).T) - b.T @ a.T).max()
        < 1e-4
    )


@pytest.mark.parametrize("shape", [(1, 70, 90), (130, 70, 1), (1, 70, 1), (1, 1, 5), (2, 3, 1)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_products_of_one_row_or_column_are_right_in_every_layout(shape, left, right):
    m, k, n = shape
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(m, k)), rng.normal(size=(k, n)), rng.normal(size=(m, n))
    x = mx.array(a.T.copy(), mx.float32).T if left else mx.array(a, mx.float32)
    y = mx.array(b.T.copy(), mx.float32).T if right else mx.array(b, mx.float32)
    assert np.abs(np.array(x @ y) - a @ b).max() < 1e-4
    got = mx.addmm(mx.array(c, mx.float32), x, y, alpha=0.5, beta=2.0)
    assert np.abs(np.array(got) - (2 * c + 0.5 * a @ b)).max() < 1e-4


@linux
def test_a_fast_blas_is_much_faster_than_the_wheels_own():
    code = "from mlx_shakegpt import runtime; {} print(runtime.matmul_gflops(1))"

    def speed(prepare):
        command = [sys.executable, "-c", code.format(prepare)]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    fast = slow = 0.0
    for _ in range(5):  # whoever else uses the cores slows some of them
        fast, slow = max(fast, speed("runtime.setup();")), max(slow, speed(""))
        if fast > 5 * slow:
            return
    raise AssertionError(f"{fast} and {slow} GFLOP/s")


@linux
def test_without_any_openblas_one_warning_says_what_to_do(monkeypatch):
    monkeypatch.setattr(blas, "candidates", list)
    runtime = device_module.setup.__wrapped__()
    assert not runtime.blas.fast
    slow = [line for line in runtime.warnings if "BLAS" in line]
    assert len(slow) == 1 and "(no OpenBLAS was found)" in slow[0]
    assert slow[0].endswith("get one with: pip install scipy-openblas32")


@linux
def test_processes_that_were_launched_together_share_the_cores(monkeypatch):
    used = []
    library = SimpleNamespace(fast=True, threads=8, use_threads=used.append)
    monkeypatch.setattr(device_module, "use_fast_blas", lambda compiled: library)
    launch = SimpleNamespace(local_rank=0, local_size=4)
    monkeypatch.setattr(device_module, "launched", lambda: launch)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")  # what somebody chose stays
    device_module.setup.__wrapped__()
    assert used == []
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    device_module.setup.__wrapped__()
    assert used == [2]


@linux
def test_an_openblas_that_is_found_by_a_link_of_another_name_is_asked_and_told(tmp_path):
    """As Debian's and Ubuntu's libopenblas.so.0 is one."""
    link = tmp_path / "libopenblas.so.0"
    name, prefix = blas.candidates()[-1]
    link.symlink_to(Path(name))
    code = (
        "from mlx_shakegpt.runtime import blas\n"
        f"blas.candidates = lambda: [({str(link)!r}, {prefix!r})]\n"
        "from mlx_shakegpt import runtime\n"
        "library = runtime.setup().blas\n"
        "library.use_threads(1)\n"
        "print(library.path, library.threads)\n"
    )
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split() == [str(Path(name).resolve()), "1"]


@pytest.mark.parametrize("place", ["", "/slice/job"])  # the process's group
@pytest.mark.parametrize("below", ["", "slice", "slice/job"])
@pytest.mark.parametrize(
    ("controller", "files"),
    [
        (
            "",
            {
                "memory.max": "5000",
                "memory.current": "4000",
                "memory.stat": "anon 900\ninactive_file 2000\nactive_file 1000\n",
            },
        ),
        (
            "memory",
            {
                "memory.limit_in_bytes": "5000",
                "memory.usage_in_bytes": "4000",
                "memory.stat": "cache 9\ntotal_inactive_file 2000\ntotal_active_file 1000\n",
            },
        ),
    ],
)
def test_what_a_control_group_caches_is_free(
    tmp_path, monkeypatch, controller, files, below, place
):
    folder = tmp_path / controller / below
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    (tmp_path / "own").write_text(f"7:cpu,cpuacct:/x\n3:{controller}:{place or '/'}\n")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    if not below or place:
        assert runtime.free_bytes() == 5000 - 4000 + 3000
    else:  # another process's
        assert runtime.free_bytes() > 1e8
    (folder / next(iter(files))).write_text("max")
    assert runtime.free_bytes() > 1e8


@linux
def test_files_that_are_no_elf_are_refused(tmp_path):
    path = tmp_path / "libmlx.so"
    path.write_bytes(b"MZ" * 100)
    with pytest.raises(ValueError, match="not a 64-bit"):
        blas.import_slots(path, b"cblas_sgemm")


@linux
def test_kernels_are_compiled_for_this_processor_with_headers_read_once(tmp_path):
    code = (
        "import mlx.core as mx, numpy as np\n"
        "from mlx_shakegpt import runtime\n"
        "assert not [w for w in runtime.setup().warnings if 'kernels' in w]\n"
        "x = mx.arange(1000.0)\n"
        "for k in range(2): print(mx.compile(lambda a: mx.sqrt(a) * 2 + k)(x).sum().item())"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    for _ in range(2):  # once to compile, once from the cache
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        want = 2 * np.sqrt(np.arange(1000.0)).sum()
        assert [float(x) for x in done.stdout.split()] == pytest.approx([want, want + 1000], 1e-5)
    assert len(list(tmp_path.rglob("*.gch"))) == 1
    kernels = list(tmp_path.rglob("cpu/*.so"))
    assert len(kernels) == 2
    machine = Path("/proc/cpuinfo").read_text()
    if " avx" in machine:  # 256-bit registers are in no plain x86-64 code
        code = subprocess.run(["objdump", "-d", kernels[0]], capture_output=True, check=True)
        assert b"ymm" in code.stdout
    assert not list(tmp_path.rglob("*.so.*"))


@linux
def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path):
    (tmp_path / "mlx-shakegpt").write_text("a file, where a folder should be")
    code = "from mlx_shakegpt import runtime; print(*runtime.setup().warnings)"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert b"XDG_CACHE_HOME" in done.stdout


def test_estimates_count_the_products_of_a_step():
    model, config = (
        preset("gpt2-124m").model,
        recipe("recite", "gpt2-124m", optimizer="adamw", batch_size=8),
    )
    one_step = cost.step(model, config, 100.0, 50_257, on_cpu=True)
    # 6 × parameters × tokens but for the positions and norms, and the attention's scores on top.
    assert one_step.flops == pytest.approx(6 * (124_439_808 - 1024 * 768) * 1024, rel=0.05)
    assert one_step.seconds == pytest.approx(one_step.flops / 1e11)
    muon = cost.step(model, replace(config, optimizer="muon"), 100.0, 50_257, on_cpu=True)
    on_gpu = cost.step(model, replace(config, optimizer="muon"), 100.0, 50_257, on_cpu=False)
    # Five iterations of 2 × 3 products of C × C for each of the four square matrices of a block,
    # nearly, and more for the two long ones.
    squares = 12 * 4 * 30 * 768**3
    assert 0.5 * squares < muon.flops - one_step.flops < on_gpu.flops - one_step.flops < 2 * squares
    closed = cost.step(model, config, 100.0, 11_707, on_cpu=True)
    assert closed.memory_bytes < one_step.memory_bytes
    assert 1e8 < runtime.free_bytes() <= runtime.total_memory() > 1e9


def test_expected_epochs_are_those_taken_and_between():
    epochs = cost.EPOCHS_TAKEN
    assert [cost.expected_epochs(n) for n in epochs] == pytest.approx(list(epochs.values()))
    assert epochs[8_192] < cost.expected_epochs(6_000) < epochs[4_096]
    assert cost.expected_epochs(50) == pytest.approx(epochs[239])
    assert cost.expected_epochs(10**7) == pytest.approx(epochs[338_025])
