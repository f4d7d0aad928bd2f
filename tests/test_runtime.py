import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_shakegpt import estimate, runtime
from mlx_shakegpt.config import preset, recipe
from mlx_shakegpt.runtime import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")


@linux
def test_products_go_to_openblas_and_are_right(device):
    if device.device == "cpu":
        assert device.blas.fast and "OpenBLAS" in device.blas.name
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(130, 70)), rng.normal(size=(70, 90))
    assert np.abs(np.array(mx.array(a, mx.float32) @ mx.array(b, mx.float32)) - a @ b).max() < 1e-4
    assert (
        np.abs(np.array(mx.array(b, mx.float32).T @ mx.array(a, mx.float32).T) - b.T @ a.T).max()
        < 1e-4
    )


@linux
def test_a_fast_blas_is_much_faster_than_the_wheels_own():
    code = "from mlx_shakegpt import runtime; {} print(runtime.matmul_gflops(1))"

    def speed(prepare):
        command = [sys.executable, "-c", code.format(prepare)]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    assert speed("runtime.setup();") > 5 * speed("")


@linux
def test_without_any_openblas_one_warning_says_what_to_do(monkeypatch):
    monkeypatch.setattr(blas, "_candidates", list)
    found = blas.use_fast_blas()
    assert not found.fast
    assert found.reason == "no OpenBLAS was found"


@linux
def test_files_that_are_no_elf_are_refused(tmp_path):
    path = tmp_path / "libmlx.so"
    path.write_bytes(b"MZ" * 100)
    with pytest.raises(ValueError, match="not a 64-bit"):
        blas._import_slots(path, b"cblas_sgemm")


def test_estimates_count_the_products_of_a_step():
    model, config = preset("gpt2-124m").model, recipe("recite", "gpt2-124m")
    cost = estimate.step(model, config, gflops=100.0)
    # 6 × parameters × tokens but for the positions and norms, and the attention's scores on top.
    assert cost.flops == pytest.approx(6 * (124_439_808 - 1024 * 768) * 1024, rel=0.05)
    assert cost.seconds == pytest.approx(cost.flops / 1e11)
    closed = estimate.step(model, config, gflops=100.0, rows=11_707)
    assert closed.memory_bytes < cost.memory_bytes
    assert runtime.memory_bytes() > 1e9
