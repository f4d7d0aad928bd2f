"""Several processes that train one model: real ones, over loopback."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT, TINY_PROGRAM, free_port, free_ports, tool

from mlx_shakegpt.runtime import Launch, launched

# AdamW and learned positions: Muon magnifies float32's rounding where a gradient is next to
# nothing, and so do heads that look back, with logits in the thousands.
TRAIN = ("train", "--preset", "tiny", "--steps", "50", "--target-loss", "1e-6")
TRAIN += ("--optimizer", "adamw", "--positions", "learned")


def environment(home, **more):
    alone = {k: v for k, v in os.environ.items() if not k.startswith(("MLX_RANK", "MLX_HOST"))}
    return (
        alone
        | {"SHAKEGPT_HOME": str(home), "OPENBLAS_NUM_THREADS": "1", "TINY_PAUSE": "0.2"}
        | more
    )


class Group:
    """Ranks of one command, each with its own options where `each` has them."""

    def __init__(
        self, home, size, *options, each=None, missing=(), command=TINY_PROGRAM, more=None
    ):
        hosts = home / f"hosts-{time.monotonic_ns()}.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(size)]))
        self.ranks = {
            rank: subprocess.Popen(
                [*command, *options, *(each or {}).get(rank, ())],
                env=environment(home, MLX_RANK=str(rank), MLX_HOSTFILE=str(hosts), **(more or {})),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(size)
            if rank not in missing
        }

    def until(self, path):
        """Waits for a file."""
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            over = all(process.poll() is not None for process in self.ranks.values())
            if over or time.monotonic() > deadline:
                for process in self.ranks.values():
                    process.kill()
                pytest.fail(f"no {path.name}: {self.end()}")
            time.sleep(0.05)
        return self

    def end(self):
        """Codes and stderr of the ranks, once all are over."""
        deadline = time.monotonic() + PATIENCE
        ends = {}
        try:
            for rank, process in self.ranks.items():
                _, errors = process.communicate(timeout=max(1, deadline - time.monotonic()))
                ends[rank] = (process.returncode, errors)
        finally:
            for process in self.ranks.values():
                process.kill()
        return ends


def errors(ends):
    return [line for _, text in ends.values() for line in text.splitlines() if "Error:" in line]


def steps(home, name):
    lines = map(json.loads, (home / "weights" / name / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def checkpoint(home, name, step):
    return home / "weights" / name / "checkpoints" / f"{step:08d}" / "state.json"


def alike(ours, theirs, rel=2e-5):
    """Equal to float32's rounding, which sums over ranks in another order."""
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for name in ("loss", "norm"):
        for one, other in zip(ours, theirs, strict=True):
            assert one[name] == pytest.approx(other[name], rel=rel)


@pytest.fixture(scope="module")
def alone(pinned, tmp_path_factory):
    """The losses of the same training in one process."""
    home = tmp_path_factory.mktemp("alone")
    shutil.copytree(ROOT / "data", home / "data")
    command = [*TINY_PROGRAM, *TRAIN, "--run", "alone"]
    done = subprocess.run(command, env=environment(home), capture_output=True, check=False)
    assert done.returncode == 1
    return steps(home, "alone")


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_compute_what_one_process_does(home, alone, size):
    """Of 12 windows at first, and of 6, which four ranks do not divide evenly."""
    ends = Group(home, size, *TRAIN, "--run", "ranks").end()
    assert [code for code, _ in ends.values()] == [1] + [0] * (size - 1)
    assert all(text == "" for rank, (_, text) in ends.items() if rank)
    assert len(alone) == 50
    alike(steps(home, "ranks"), alone)


def test_ranks_exchange_between_the_halves_of_a_gpus_step(home):
    """In float32, as quick is on a GPU; uncompiled, as MLX's own kernels for a CPU take longer to
    compile than to run."""
    command = [sys.executable, str(ROOT / "tests" / "programs" / "tiny_gpu.py")]
    train = (*TRAIN, "--dtype", "float32", "--steps", "20")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_DISABLE_COMPILE", "1")
        ends = Group(home, 2, *train, "--run", "ranks", command=command).end()
        one = [*command, *train, "--run", "one"]
        subprocess.run(one, env=environment(home), capture_output=True, check=False)
    assert [code for code, _ in ends.values()] == [1, 0], ends
    assert len(steps(home, "one")) == 20
    alike(steps(home, "ranks"), steps(home, "one"))


def test_ranks_compute_what_one_process_does_with_muon(home):
    """From step 2 on, first targets weigh less."""
    train = (*TRAIN, "--optimizer", "muon", "--positions", "look-back")
    train += ("--steps", "12", "--edge-below", "99")
    Group(home, 2, *train, "--run", "ranks").end()
    subprocess.run([*TINY_PROGRAM, *train, "--run", "one"], env=environment(home), check=False)
    assert len(steps(home, "one")) == 12
    alike(steps(home, "ranks"), steps(home, "one"), rel=1e-4)


def test_samples_of_the_first_rank_change_no_bit(home):
    train = (*TRAIN, "--optimizer", "muon", "--steps", "24")
    silent = Group(home, 2, *train, "--run", "silent", "--sample-every", "0").end()
    speaking = (*train, "--run", "speaking", "--sample-every", "0.01")
    ends = Group(home, 2, *speaking, more={"TINY_SAMPLES": "1"}).end()
    assert [code for code, _ in ends.values()] == [code for code, _ in silent.values()] == [1, 0]
    assert ends[0][1].count("\nsays") > 5 and ends[1][1] == "" and "\nsays" not in silent[0][1]
    alike(steps(home, "speaking"), steps(home, "silent"), rel=0)
    files = [home / "weights" / name / "model.safetensors" for name in ("silent", "speaking")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_interrupt_of_any_rank_stops_all_and_others_may_go_on(home, alone):
    """Begun by two, one of which is interrupted; gone on with by three, then by one."""
    group = Group(home, 2, *TRAIN, "--run", "r", "--checkpoint-every", "1")
    group.until(checkpoint(home, "r", 3))
    group.ranks[1].send_signal(signal.SIGINT)
    ends = group.end()
    assert [code for code, _ in ends.values()] == [130, 0]
    reached = len(steps(home, "r"))
    assert 3 <= reached < 50
    resume = (*TRAIN, "--run", "r", "--resume")
    group = Group(home, 3, *resume, "--checkpoint-every", "1")
    group.until(checkpoint(home, "r", reached + 3))
    group.ranks[0].send_signal(signal.SIGTERM)
    group.end()
    assert reached < len(steps(home, "r")) < 50
    subprocess.run(
        [*TINY_PROGRAM, *resume], env=environment(home), capture_output=True, check=False
    )
    alike(steps(home, "r"), alone)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_with_one_line(home, alone, killed):
    """MLX tells of a broken connection, or waits on; then the watchdog ends it."""
    every = ("--checkpoint-every", "1", "--rank-timeout", "30")
    group = Group(home, 2, *TRAIN, "--run", "r", *every).until(checkpoint(home, "r", 3))
    group.ranks[killed].kill()
    ends = group.end()
    assert ends[killed][0] == -signal.SIGKILL
    code, text = ends[1 - killed]
    lines = [line for line in text.splitlines() if not re.match("step|eval|Learn|Train|The", line)]
    assert code in (1, -signal.SIGKILL) and len(lines) == 1, text
    assert lines[0].startswith(f"Error: rank {1 - killed}") and "resume" in lines[0]
    resume = [*TINY_PROGRAM, *TRAIN, "--run", "r", "--resume"]
    subprocess.run(resume, env=environment(home), capture_output=True, check=False)
    alike(steps(home, "r"), alone)


def test_a_rank_that_hangs_ends_the_others(home):
    every = ("--steps", "5000", "--checkpoint-every", "1", "--rank-timeout", "20")
    group = Group(home, 2, *TRAIN, "--run", "r", *every).until(checkpoint(home, "r", 3))
    group.ranks[1].send_signal(signal.SIGSTOP)
    group.ranks[0].wait(PATIENCE)
    group.ranks[1].kill()
    code, text = group.end()[0]
    assert code == -signal.SIGKILL, text
    lines = [line for line in text.splitlines() if line.startswith("Error: rank 0, after step")]
    assert len(lines) == 1 and "no answer from the other ranks for 20 s" in lines[0]


def test_the_watchdog_does_its_work_where_nobody_reads():
    watch = ROOT / "mlx_shakegpt" / "runtime" / "watchdog.py"
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
    (read, speaks), (gone, errors) = os.pipe(), os.pipe()
    os.close(gone)
    command = [sys.executable, "-I", watch, str(victim.pid), "0.5", str(read)]
    streams = {"stdin": subprocess.PIPE, "stderr": errors, "pass_fds": (read,)}
    with subprocess.Popen(command, **streams) as watchdog:
        assert victim.wait(PATIENCE) == -signal.SIGKILL
        watchdog.stdin.close()
    for end in (read, speaks, errors):
        os.close(end)


def test_a_tick_may_give_more_time_than_others():
    watch = ROOT / "mlx_shakegpt" / "runtime" / "watchdog.py"
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)"])
    read, speaks = os.pipe()
    command = [sys.executable, "-I", watch, str(victim.pid), "30", str(read)]
    streams = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "pass_fds": (read,)}
    with subprocess.Popen(command, **streams) as watchdog:
        watchdog.stdin.write(b"40 opening\n")
        watchdog.stdin.write(b"0.2 sharing wte\n")
        watchdog.stdin.flush()
        assert victim.wait(PATIENCE) == -signal.SIGKILL
        message = watchdog.stderr.readline()
    assert b"sharing wte: no answer from the other ranks for 0.2 s" in message
    for end in (read, speaks):
        os.close(end)


def test_a_rank_that_never_comes_is_not_awaited_for_ever(home):
    ends = Group(home, 2, *TRAIN, "--rank-timeout", "3", missing=[1]).end()
    assert ends[0][0] == -signal.SIGKILL
    assert errors(ends) == [
        "Error: rank 0, joining: no answer from the other ranks for 3 s; see that all run and "
        "reach each other, then start all again and resume"
    ]


def test_a_taken_port_is_one_line(home):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        hosts = home / "hosts.json"
        ports = (busy.getsockname()[1], free_port())
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
        done = subprocess.run(
            [*TINY_PROGRAM, *TRAIN],
            env=environment(home, MLX_RANK="0", MLX_HOSTFILE=str(hosts)),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "the ranks cannot join" in done.stderr and "ports are free" in done.stderr


def test_ranks_that_differ_are_refused_before_anything_is_written(home, poem, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(poem.read_text().replace("beauty", "Beauty"))
    each = {0: ("--data", poem), 1: ("--data", other)}
    short = ("train", "--preset", "tiny", "--context", "16", "--short-context", "0")
    ends = Group(home, 2, *short, each=each).end()
    assert [code for code, _ in ends.values()] == [2, 0] and len(errors(ends)) == 1
    assert "rank 1: its text other.txt has sha256" in errors(ends)[0]
    ends = Group(home, 2, *TRAIN, each={1: ("--lr", "0.001")}).end()
    assert [code for code, _ in ends.values()] == [2, 0]
    assert errors(ends) == [
        "Error: rank 1 has lr 0.001, rank 0 has None; start every rank with the same command"
    ]
    ends = Group(home, 2, *TRAIN, each={1: ("--data", tmp_path / "none.txt")}).end()
    assert [code for code, _ in ends.values()] == [2, 0] and len(errors(ends)) == 1
    assert "none.txt" in errors(ends)[0]
    assert not (home / "weights").exists()


def test_a_rank_of_another_version_is_refused(home, tmp_path):
    copy = tmp_path / "copy"
    for part in ("mlx_shakegpt", "tests/programs"):
        shutil.copytree(ROOT / part, copy / part)
    changed = copy / "mlx_shakegpt" / "text" / "vocabulary.py"
    changed.write_text(changed.read_text() + "\n")
    group = Group(home, 2, *TRAIN, missing=[1])
    hosts = next(home.glob("hosts-*.json"))
    group.ranks[1] = subprocess.Popen(
        [sys.executable, str(copy / "tests" / "programs" / "tiny.py"), *TRAIN],
        env=environment(home, MLX_RANK="1", MLX_HOSTFILE=str(hosts)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ends = group.end()
    assert [code for code, _ in ends.values()] == [2, 0] and len(errors(ends)) == 1
    assert "rank 1 has the program's files" in errors(ends)[0]


def test_ranks_that_drifted_apart_take_the_first_ones_state(home):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n"
        "import numpy as np, mlx.core as mx\n"
        "from conftest import TINY, tiny_training\n"
        "from mlx_shakegpt.runtime.ranks import join\n"
        "from mlx_shakegpt.runtime import setup\n"
        "from mlx_shakegpt.verification.loss import Evaluation\n"
        "from mlx_shakegpt.training import Trainer\n"
        "from mlx_shakegpt.model.trees import flat\n"
        "ranks = join(setup().launch, 20)\n"
        "ids = np.random.default_rng(1).integers(100, 150, 400).astype(np.int32)\n"
        "config = tiny_training(steps=25)\n"
        "unknown = lambda *_: Evaluation(9, 0, 0, 1, True)\n"
        "trainer = Trainer(TINY, config, ids, unknown, ranks=ranks)\n"
        "reports = trainer.run()\n"
        "next(reports)\n"
        "w = trainer.model.wte.weight\n"
        "trainer.model.wte.weight = w + 1e-7 * ranks.rank\n"
        "table = trainer.model.wte.weight[0, 0].item()\n"
        "apart = ranks.gather(table)\n"
        "assert apart[0] != apart[1], apart\n"
        "losses = [(report.loss, bool(report.evaluation)) for report in reports]\n"
        "assert [step for step, loss in enumerate(losses, 2) if loss[1]] == [20, 25], losses\n"
        "state = flat(trainer.model.parameters()) | flat(trainer.optimizer.state)\n"
        "sums = [bytes(memoryview(v.reshape(-1))).hex() for v in state.values()]\n"
        "both = ranks.gather(sums)\n"
        "assert both[0] == both[1] and len(losses) == 24\n"
        "ranks.wait()\n"
        "print('equal')\n"
    )
    group = Group(home, 2, command=[sys.executable, "-c", code])
    outputs = [process.communicate(timeout=PATIENCE) for process in group.ranks.values()]
    assert [out for out, _ in outputs] == ["equal\n"] * 2, outputs


def launch(home, size, *options):
    """The program under mlx.launch."""
    launcher = Path(sys.executable).with_name("mlx.launch")
    place = ("-n", str(size), "--backend", "ring", "--starting-port", str(free_port()))
    return subprocess.run(
        [launcher, *place, "--", *TINY_PROGRAM, *TRAIN, *options],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("size", [1, 2])
def test_mlx_launch_starts_it(home, size, alone):
    done = launch(home, size, "--run", "r")
    assert ("Training on 2 ranks, through ring." in done.stderr) == (size == 2)
    assert "after 50 steps" in done.stdout
    alike(steps(home, "r"), alone)


def test_mlx_launch_shows_the_last_line(home):
    done = launch(home, 2, "--batch-size", "1")
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error:")]
    assert lines == [
        "Error: 2 ranks cannot share 1 windows a step; use --batch-size 2 or more, or fewer ranks"
    ]


def test_mpirun_starts_it(home, alone):
    mpirun = tool("mpirun")
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        [mpirun, "--oversubscribe", "-n", "2", *TINY_PROGRAM, *TRAIN, "--run", "r"],
        env=environment(home, **root),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert "Training on 2 ranks, through mpi." in done.stderr
    alike(steps(home, "r"), alone)


def test_a_launchers_environment_is_understood(tmp_path):
    hosts, devices, empty = (tmp_path / name for name in ("hosts", "devices", "empty"))
    hosts.write_text('[["10.0.0.1:1"], ["10.0.0.2:1"], ["10.0.0.1:2"]]')
    devices.write_text('[[null, "rdma_en5"], ["rdma_en5", null]]')
    empty.write_text("\n")
    ring = {"MLX_HOSTFILE": str(hosts)}
    assert launched({}) == launched({"MLX_RANK": "0", "MLX_HOSTFILE": str(empty)}) == Launch()
    assert launched(ring | {"MLX_RANK": "2"}) == Launch("ring", 2, 3, 1, 2)
    assert launched(ring | {"MLX_RANK": "1"}) == Launch("ring", 1, 3, 0, 1)
    jaccl = {"MLX_IBV_DEVICES": str(devices), "MLX_JACCL_COORDINATOR": "10.0.0.1:1"}
    assert launched(jaccl | {"MLX_RANK": "1"}) == Launch("jaccl", 1, 2)
    nccl = {"NCCL_HOST_IP": "10.0.0.1", "MLX_WORLD_SIZE": "4", "MLX_RANK": "3"}
    assert launched(nccl) == Launch("nccl", 3, 4)
    names = ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
    mpi = {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "4321", strict=True)}
    assert launched(mpi) == Launch("mpi", 3, 4, 1, 2)
    assert launched({"PMI_SIZE": "2", "PMI_RANK": "1"}) == Launch("mpi", 1, 2)
    assert launched({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}) == Launch()
    for bad in ({"MLX_RANK": "9"}, {"MLX_RANK": "x"}, {"MLX_RANK": "0", "MLX_HOSTFILE": "none"}):
        with pytest.raises(ValueError, match="the launcher's environment cannot be read"):
            launched(ring | bad)
