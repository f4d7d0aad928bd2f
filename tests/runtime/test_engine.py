"""Products shared among threads: their bits, and the calls that a library must survive."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from mlx_shakegpt import files, runtime, train

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++") or runtime.on_gpu(),
    reason="the engine is for Linux CPUs with g++",
)
PATIENCE = 600  # seconds, as conftest has it, which a program of its own here cannot import
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112


@pytest.fixture
def threads():
    """Sets how many threads share a product; afterwards it is as before."""
    blas = runtime.setup().blas
    before = blas.threads
    yield blas.use_threads
    blas.use_threads(before)


def product(a, b):
    """a @ b by the engine itself, without MLX, of row-major float32 matrices."""
    c = np.empty((len(a), b.shape[1]), np.float32)
    addresses = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, c)]
    m, k, n = *a.shape, b.shape[1]
    one, zero = ctypes.c_float(1), ctypes.c_float(0)
    runtime.setup().blas.engine.engine_sgemm(
        ROW_MAJOR, PLAIN, PLAIN, m, n, k, one, addresses[0], k, addresses[1], n, zero,
        addresses[2], n,
    )  # fmt: skip
    return c


def matrices(m, k, n):
    rng = np.random.default_rng(m + k + n)
    return rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)


@pytest.mark.parametrize(
    "shape",
    [(256, 320, 960), (1000, 513, 777), (33, 700, 4099), (3000, 900, 17), (1, 900, 1700),
     (5000, 700, 1), (64, 64, 64)],
)  # fmt: skip
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_products_have_the_same_bits_with_any_number_of_threads(threads, shape, left, right):
    m, k, n = shape
    a, b = matrices(m, k, n)
    c = np.random.default_rng(0).normal(size=(m, n)).astype(np.float32)
    x = mx.array(a.T.copy()).T if left else mx.array(a)
    y = mx.array(b.T.copy()).T if right else mx.array(b)
    results = []
    for count in (1, 2, 4):
        threads(count)
        added = mx.addmm(mx.array(c), x, y, alpha=0.5, beta=2.0)
        results.append([np.array(x @ y), np.array(added)])
    want = a.astype(np.float64) @ b
    assert np.abs(results[0][0] - want).max() < 1e-6 * k
    assert np.abs(results[0][1] - (2 * c + 0.5 * want)).max() < 1e-6 * k
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.tobytes() == two.tobytes()


def as_bfloat16(x):
    """Numbers rounded to the nearest bfloat16, of two equally near ones to the even one."""
    return np.array(mx.array(x).astype(mx.bfloat16).astype(mx.float32))


@pytest.mark.skipif(not runtime.setup().can_round, reason="no AVX512-BF16")
@pytest.mark.parametrize("shape", [(256, 320, 960), (1000, 513, 777), (97, 1201, 385)])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_rounded_products_are_those_of_rounded_operands(threads, shape, left, right):
    m, k, n = shape
    a, b = matrices(m, k, n)
    x = mx.array(a.T.copy()).T if left else mx.array(a)
    y = mx.array(b.T.copy()).T if right else mx.array(b)
    c = mx.ones((m, n))
    want = as_bfloat16(a).astype(np.float64) @ as_bfloat16(b)
    results = []
    with runtime.products_of("bfloat16"):
        for count in (1, 2, 4):
            threads(count)
            results.append([np.array(x @ y), np.array(mx.addmm(c, x, y, alpha=0.5, beta=2.0))])
    assert np.abs(results[0][0] - want).max() < 1e-6 * k
    assert np.abs(results[0][1] - (2 + 0.5 * want)).max() < 1e-6 * k
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.tobytes() == two.tobytes()
    assert np.abs(np.array(x @ y) - a.astype(np.float64) @ b).max() < 1e-6 * k  # exact again


@pytest.mark.skipif(not runtime.setup().can_round, reason="no AVX512-BF16")
def test_a_rounded_matrix_times_its_own_transpose_is_symmetric_to_the_bit():
    values, _ = matrices(400, 300, 1)
    with runtime.products_of("bfloat16"):
        square = np.array(mx.array(values) @ mx.array(values).T)
    assert square.tobytes() == square.T.copy().tobytes()
    want = as_bfloat16(values).astype(np.float64)
    assert np.allclose(square, want @ want.T, rtol=1e-5, atol=1e-4)


def test_where_it_cannot_round_it_says_so(monkeypatch):
    monkeypatch.setattr(runtime.Runtime, "can_round", False)
    with pytest.raises(ValueError, match="needs Linux, g"), runtime.products_of("bfloat16"):
        pass


@pytest.mark.parametrize("shape", [(256, 700), (768, 300), (400, 400), (333, 1000)])
def test_a_matrix_times_its_own_transpose_is_symmetric_to_the_bit(threads, shape):
    values, _ = matrices(*shape, 1)
    x, y = mx.array(values), mx.array(values.T.copy()).T
    results = []
    for count in (1, 2, 4):
        threads(count)
        results += [np.array(x @ x.T), np.array(y @ y.T)]
    want = values.astype(np.float64) @ values.T
    for got in results:
        assert got.tobytes() == got.T.copy().tobytes() == results[0].tobytes()
        assert np.abs(got - want).max() < 2e-6 * want.max()
    # Where it is added to something, nothing says that the result is symmetric.
    other = np.random.default_rng(0).normal(size=want.shape).astype(np.float32)
    got = np.array(mx.addmm(mx.array(other), x, x.T, alpha=0.5, beta=2.0))
    assert np.abs(got - (2 * other + 0.5 * want)).max() < 2e-6 * want.max()


def test_trainings_with_one_two_and_four_threads_have_equal_weights(threads):
    """Whole ones, of a short passage with quick's settings, through the library's own door."""
    weights = set()
    for count in (1, 2, 4):
        threads(count)
        name = f"with-{count}"
        train(preset="quick", corpus_tokens=300, steps=10, dtype="float32", run=name)
        weights.add(files.sha256(files.weights_dir() / name / "model.safetensors"))
    assert len(weights) == 1


def test_threads_that_multiply_at_once_get_what_each_gets_alone(threads):
    """More of them than the engine helps at one time, and than there are cores."""
    threads(4)
    work = [matrices(200 + 8 * i, 300, 250) for i in range(20)]
    alone = [product(*pair) for pair in work]
    wrong = []

    def multiply(index):
        for _ in range(30):
            if product(*work[index]).tobytes() != alone[index].tobytes():
                wrong.append(index)

    started = [threading.Thread(target=multiply, args=(i,)) for i in range(len(work))]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert not wrong


PROGRAM = """
import os, sys
sys.path.insert(0, {tests!r})
from mlx_shakegpt import runtime
runtime.setup().blas.use_threads(3)
from test_engine import matrices, product
pair = matrices(400, 300, 500)
before = product(*pair).tobytes()
"""


def ended(code):
    """The exit code and output of a program that has multiplied with three threads."""
    tests = os.path.dirname(__file__)
    command = [sys.executable, "-c", PROGRAM.format(tests=tests) + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_forked_process_multiplies_with_workers_of_its_own():
    code = """
child = os.fork()
same = product(*pair).tobytes() == before
if child == 0:
    tasks = len(os.listdir("/proc/self/task"))
    os._exit(0 if same and tasks == 3 else 1)
print(same, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert ended(code) == (0, "True 0\n", "")


def test_a_process_ends_while_its_workers_sleep_or_look_for_work():
    assert ended("") == (0, "", "")
    assert ended("import time; time.sleep(.2); print('rested')") == (0, "rested\n", "")


def test_signals_are_left_to_pythons_threads():
    code = """
import signal
masks = []
for task in os.listdir("/proc/self/task"):
    lines = open(f"/proc/self/task/{task}/status").read().splitlines()
    masks += [int(line.split()[1], 16) for line in lines if line.startswith("SigBlk")]
print(sum(mask >> (signal.SIGINT - 1) & 1 for mask in masks))
"""
    assert ended(code) == (0, "2\n", "")
