"""Stops and kills a training, damages its files, fills its disk, and compares the end.

    python tests/engines/torture.py [--minutes 30]

An undisturbed training comes first. Then the same training is started, stopped by signals that
arrive while a step's report is handled, killed with SIGKILL (also while it saves), has its newest
checkpoint damaged now and then, meets a full disk now and then, and is resumed, until it is over;
and again, until the time is up. Each ends with the losses, logs and weights of the undisturbed one,
bit for bit, or the script fails. A short text, of which a step has several epochs, takes a third of
the time; the certificate of the long one must hold.
"""

import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import common

from mlx_shakegpt.files import sha256
from mlx_shakegpt.sharing import markdown
from mlx_shakegpt.training.checkpoint import newest

QUICK = ("--preset", "quick", "--checkpoint-every", "25")
SHORT = ("--preset", "quick", "--corpus-tokens", "150", "--steps", "150")
COMPARED = ("step", "epoch", "tokens", "loss", "lr", "norm")
DAMAGE, FULL, STOPPED, WHILE_SAVING = 0.15, 0.1, 0.2, 0.3  # chances in a round
STOPS = 3  # at least, in each training
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Torture:
    """Trainings in a home of their own; `counts` tells what was done to them."""

    def __init__(self, home: Path, options: tuple[str, ...], seed: int, longest: float) -> None:
        """A training is left alone for `longest` seconds at most, where that is time for steps."""
        self.home, self.options, self.longest, self.idle = home, options, longest, 0
        self.random, self.counts = random.Random(seed), Counter()
        self.environment = common.environment() | {"SHAKEGPT_HOME": str(home)}
        shutil.copytree(common.ROOT / "data", home / "data", dirs_exist_ok=True)

    def start(
        self, run: str, blocks: int | None = None, program: tuple[str, ...] = ("cli.py",)
    ) -> subprocess.Popen:
        """Starts or resumes a training; files may have so many blocks of 1,024 bytes at most."""
        command = [sys.executable, *program, "train", "--resume", "--run", run, *self.options]
        if blocks:
            command = ["bash", "-c", f"ulimit -f {blocks}; exec {shlex.join(command)}"]
        return subprocess.Popen(
            command, cwd=common.ROOT, env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip

    def calm(self, run: str) -> None:
        """The undisturbed training."""
        process = self.start(run)
        _, errors = process.communicate()
        if process.returncode not in (0, 1):
            raise SystemExit(f"the undisturbed training failed: {errors}")

    def round(self, run: str) -> bool:
        """One start, and what happens to it; whether the training came to its end."""
        folder = self.home / "weights" / run
        if self.random.random() < FULL and (folder / "metrics.jsonl").exists():
            self._full_disk(run, folder)
            return False
        if self.random.random() < STOPPED:
            return self.stop(run)
        left_over = self._half_written(folder)  # by one that was killed before
        process = self.start(run)
        deadline = time.monotonic() + self.random.uniform(1, self.longest)
        saving, before = self.random.random() < WHILE_SAVING, self._steps(folder)
        caught = False
        while process.poll() is None and time.monotonic() < deadline and not caught:
            caught = saving and bool(self._half_written(folder) - left_over)
            time.sleep(0.002)
        process.kill()
        _, errors = process.communicate()
        if process.returncode not in (0, 1, -signal.SIGKILL):
            raise SystemExit(f"{run} ended with {process.returncode}: {errors}")
        if process.returncode in (0, 1):
            if "not finite" in errors or not (folder / "model.safetensors").exists():
                raise SystemExit(f"{run} failed: {errors}")
            return True
        self.counts["killed"] += 1
        self.counts["killed while saving"] += caught
        self.idle = 0 if self._steps(folder) > before else self.idle + 1
        if self.idle == 5:  # on a busy machine, the start alone may take so long
            self.longest, self.idle = 2 * self.longest, 0
        if not self.idle:  # else what a process before it lost is still in the log
            self.counts["steps lost"] += max(0, self._steps(folder) - self._newest(folder))
        if self.random.random() < DAMAGE:
            self._damage(folder)
        return False

    def stop(self, run: str) -> bool:
        """A signal while a report is handled, which loses nothing; whether the training was over
        before."""
        at, name = self.random.randint(1, 25), self.random.choice(SIGNALS)
        process = self.start(run, program=("tests/programs/stopping.py", str(at), name))
        _, errors = process.communicate()
        if process.returncode not in (0, 1, 130):
            raise SystemExit(f"{run}, stopped by {name}, ended with {process.returncode}: {errors}")
        if process.returncode != 130:
            return True
        folder = self.home / "weights" / run
        if self._newest(folder) != self._steps(folder):
            raise SystemExit(f"{run}, stopped by {name}, did not save its last step")
        self.counts["stopped"] += 1
        return False

    def differences(self, run: str, calm: str) -> list[str]:
        """What differs between two runs' metrics, logs and weights."""
        one, two = (self.home / "weights" / name for name in (run, calm))
        differing = []
        if self._metrics(one) != self._metrics(two):
            differing.append("losses")
        if self._log(one) != self._log(two):
            differing.append("training_log.txt")
        if sha256(one / "model.safetensors") != sha256(two / "model.safetensors"):
            differing.append("weights")
        return differing

    def cli(self, *arguments: str) -> subprocess.CompletedProcess:
        """A command of the program in this home."""
        command = [sys.executable, "cli.py", *arguments]
        return subprocess.run(
            command, cwd=common.ROOT, env=self.environment, capture_output=True, encoding="utf-8",
            check=False,
        )  # fmt: skip

    def _full_disk(self, run: str, folder: Path) -> None:
        """Training on a disk without room for a checkpoint: one line, and nothing lost."""
        sound = newest(folder / "checkpoints")[0]
        logs = max((folder / name).stat().st_size for name in ("metrics.jsonl", "training_log.txt"))
        process = self.start(run, blocks=logs // 1024 + 200)
        _, output = process.communicate()
        errors = [line for line in output.splitlines() if line.startswith("Error: ")]
        if process.returncode != 2 or len(errors) != 1 or "Traceback" in output:
            raise SystemExit(f"{run} on a full disk ended with {process.returncode}: {output}")
        if newest(folder / "checkpoints")[0] != sound:
            raise SystemExit(f"{run} lost a checkpoint on a full disk")
        self.counts["full disks"] += 1

    def _damage(self, folder: Path) -> None:
        """Changes a byte of a file of the newest checkpoint, cuts it short, or takes it away."""
        checkpoints = self._checkpoints(folder)
        if len(checkpoints) < 2:
            return
        file = self.random.choice(sorted(checkpoints[-1].iterdir()))
        kind = self.random.choice(("change", "cut", "remove"))
        if kind == "remove":
            file.unlink()
        else:
            size = file.stat().st_size
            place = self.random.randrange(size)
            with open(file, "r+b") as opened:
                if kind == "cut":
                    opened.truncate(place)
                else:
                    opened.seek(place)
                    byte = opened.read(1)[0]
                    opened.seek(place)
                    opened.write(bytes([byte ^ (1 << self.random.randrange(8))]))
        self.counts["checkpoints damaged"] += 1

    def _half_written(self, folder: Path) -> set[Path]:
        return set((folder / "checkpoints").glob(".*"))

    def _checkpoints(self, folder: Path) -> list[Path]:
        return sorted(p for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdigit())

    def _newest(self, folder: Path) -> int:
        checkpoints = self._checkpoints(folder)
        return int(checkpoints[-1].name) if checkpoints else 0

    def _steps(self, folder: Path) -> int:
        """Steps that were logged, the last one perhaps in part."""
        log = folder / "metrics.jsonl"
        return log.read_bytes().count(b'"loss"') if log.exists() else 0

    def _metrics(self, folder: Path) -> list[tuple]:
        lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [tuple(line.get(name) for name in (*COMPARED, "eval_nll")) for line in lines]

    def _log(self, folder: Path) -> list[str]:
        """The log's lines without what the clock and the memory put there."""
        lines = (folder / "training_log.txt").read_text(encoding="utf-8").splitlines()
        return [line.partition(" | dt:")[0].partition(" | peak:")[0] for line in lines]


def torture(
    home: Path, options: tuple[str, ...], seconds: float, seed: int, longest: float
) -> Torture:
    """Tortures trainings for some seconds, the last one to its end; its counts tell what was done.

    Raises SystemExit where one of them is not the undisturbed one in the end.
    """
    it = Torture(home, options, seed, longest)
    it.calm("calm")
    start, number = time.monotonic(), 0
    while number == 0 or time.monotonic() - start < seconds:
        number += 1
        over = any(it.stop(f"tortured-{number}") for _ in range(STOPS))  # to its end at most
        while not over:
            over = it.round(f"tortured-{number}")
        if differing := it.differences(f"tortured-{number}", "calm"):
            raise SystemExit(f"training {number} ended with other {', '.join(differing)}")
        it.counts["trainings"] += 1
        counts = ", ".join(f"{name} {count:,}" for name, count in it.counts.items())
        click.echo(f"{(time.monotonic() - start) / 60:.0f} min: {counts}", err=True)
        if number > 1:
            shutil.rmtree(home / "weights" / f"tortured-{number}")
    return it


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(minutes: float, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        short = torture(home / "short", SHORT, 20 * minutes, seed, 12.0)
        it = torture(home, QUICK, 40 * minutes, seed, 24.0)
        paper = str(home / "weights" / "calm" / "certificate.json")
        it.cli("verify", "--run", "calm")
        held = it.cli("verify", "--certificate", paper, "--run", "tortured-1")
    counts = it.counts + short.counts
    names = (
        "trainings",
        "stopped",
        "killed",
        "killed while saving",
        "checkpoints damaged",
        "full disks",
    )
    rows = [[name, f"{counts[name]:,}"] for name in names]
    rows += [["steps lost, all since the last checkpoint", f"{counts['steps lost']:,}"]]
    rows += [
        ["the undisturbed training's certificate holds", "yes" if not held.returncode else "no"]
    ]
    click.echo(markdown.table(["what", "how often"], rows))
    click.echo(f"\n{common.machine()}")
    if held.returncode:
        raise SystemExit(held.stderr)


if __name__ == "__main__":
    main()
