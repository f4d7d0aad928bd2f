"""A run that is stopped, broken off, damaged, resumed and made longer, in any order, ends bit for
bit as one that was left alone."""

import json
import shutil
from contextlib import closing, suppress
from functools import partial
from itertools import count

import pytest
from conftest import POEM
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlx_shakegpt import runtime
from mlx_shakegpt.files import sha256, weights_dir
from mlx_shakegpt.run import evaluated_trainer, open_run, session
from mlx_shakegpt.settings.config import ModelConfig, Passage
from mlx_shakegpt.settings.presets import PRESETS, Preset
from mlx_shakegpt.training import checkpoint, trainer
from mlx_shakegpt.training.windows import CAP, TokenLosses, Windows

MODEL = ModelConfig(n_layer=1, n_head=1, n_embd=16, n_positions=8)
TRAINING = {"batch_size": 6, "context": 8, "short_context": 0, "lr": 0.04, "warmup_steps": 2}
TRAINING |= {"hold": 1.0, "hard": 1.0, "target_loss": 1e-9}
PLANS = {
    "plain": {},
    "several epochs a step": {"batch_size": 40},
    "growing": {"short_context": 4, "grow": 0.6},
    "following": {"follow": 5.9},
    "on target": {"short_context": 4, "grow": 0.8, "hold": 0.9, "target_loss": 5.5},
}
STEPS = (24, 29, 34)  # at first, and as a run may be made longer
PLACES = ("handling", "logging", "noting", "drawing", "evaluating", "saving", "syncing")
EXAMPLES = 8  # of each plan
AHEAD = st.sampled_from((6, 9, 3, 1, 13))
COMPARED = ("step", "epoch", "loss", "lr", "norm")


class BrokenOff(BaseException):
    """What ends a process at once, as far as it can within one."""


class Tripwire:
    """Does something where a run comes by a place, some steps from now."""

    def __init__(self):
        self.disarm()

    def arm(self, place, steps, act):
        self.place, self.left, self.act = place, steps, act

    def disarm(self):
        self.place, self.left = None, 0

    def pass_by(self, place):
        self.left -= place == "noting"
        if place == self.place and self.left <= 0:
            self.disarm()
            self.act()

    def around(self, place, function):
        def watched(*arguments, **options):
            self.pass_by(place)
            return function(*arguments, **options)

        return watched


WIRE = Tripwire()
ALONE = {}  # names of the runs that were left alone, by plan and steps
NUMBERS = count(1)  # of runs


@pytest.fixture
def tripwire(monkeypatch):
    """Wires where a run works, and evaluations every few steps; no pictures."""
    for place, holder, name in (
        ("logging", session.metrics_file, "json_lines"),
        ("noting", TokenLosses, "note"),
        ("drawing", Windows, "batch"),
        ("evaluating", evaluated_trainer, "whole_text_nll"),
        ("saving", checkpoint, "save_tensors"),
        ("syncing", checkpoint, "sync"),
    ):
        monkeypatch.setattr(holder, name, WIRE.around(place, getattr(holder, name)))
    monkeypatch.setattr(session, "loss_curve", lambda *_: None)
    monkeypatch.setattr(trainer, "EVALUATIONS_AT_LEAST_APART", 7)
    monkeypatch.setitem(PRESETS, "small", Preset(MODEL, Passage(), TRAINING))


class Disturbed(RuleBasedStateMachine):
    """One run of a plan, whose folder is all that is known of it between two rules."""

    plan: str

    def __init__(self):
        super().__init__()
        self.name = f"disturbed-{next(NUMBERS)}"

    @initialize(every=st.sampled_from((50, 2, 5)))
    def begin(self, every):
        self.every, self.steps, self.past = every, STEPS[0], set()

    @precondition(lambda self: not self.over())
    @rule(saves=st.sampled_from((True, False)), place=st.sampled_from(PLACES), steps=AHEAD)
    def interrupt(self, saves, place, steps):
        """By Ctrl-C, SIGTERM or SIGHUP, which finish the step and save, or by what does not."""

        def act(run):
            if not saves:
                raise BrokenOff
            run.trainer.stop()

        self.follow(place, steps, act)

    @precondition(lambda self: len(self.sound()) > 1)
    @rule(
        name=st.sampled_from((*checkpoint.TENSORS, checkpoint.STATE)),
        kind=st.sampled_from(("cut", "change", "remove")),
        where=st.floats(0, 1, exclude_max=True),
    )
    def damage(self, name, kind, where):
        """The newest checkpoint loses a file, or has one with other bytes."""
        file = self.sound()[-1] / name
        data = bytearray(file.read_bytes())
        place = int(where * len(data))
        if kind == "remove":
            file.unlink()
            return
        data[place] ^= 1 << 4
        file.write_bytes(data[:place] if kind == "cut" else data)

    @precondition(lambda self: self.steps < STEPS[-1] and self.may_be_longer())
    @rule()
    def extend(self):
        """More steps, and not one of them taken yet."""
        self.past.add(self.steps)
        self.steps = STEPS[STEPS.index(self.steps) + 1]
        self.open(self.name, steps=self.steps).close()

    @precondition(lambda self: self.over())
    @rule()
    def resume_at_its_end(self):
        self.follow(None, 0, None)

    def teardown(self):
        if not hasattr(self, "every"):
            return
        self.follow(None, 0, None)
        assert self.result(self.name) == self.alone(), (self.plan, self.steps)
        shutil.rmtree(weights_dir() / self.name)

    def follow(self, place, steps, act):
        run = self.open(self.name)
        WIRE.arm(place, steps, partial(act, run) if act else None)
        with closing(run), suppress(BrokenOff), closing(run.train(self.every)) as reports:
            for _ in reports:
                WIRE.pass_by("handling")
        WIRE.disarm()

    def open(self, name, **more):
        text = weights_dir().parent / "poem.txt"
        text.write_text(POEM)
        new = not (weights_dir() / name / "config.json").exists()
        settings = {"preset": "small", "run": name, "data": str(text)} | more
        if new:
            settings |= PLANS[self.plan] | {"steps": self.steps}
        return open_run(runtime.setup(), settings, resume=True)

    def sound(self):
        """Sound checkpoints, oldest first."""
        sound = []
        for path in sorted((weights_dir() / self.name / "checkpoints").glob("[0-9]*")):
            try:
                checkpoint.check(path)
                sound.append(path)
            except checkpoint.DamagedCheckpoint:
                pass
        return sound

    def over(self):
        """Whether the newest sound checkpoint is of the end."""
        state = checkpoint.check(self.sound()[-1])["state"] if self.sound() else None
        return state is not None and state["step"] == max(state["total"], self.steps)

    def may_be_longer(self):
        """Whether a longer plan is as if it had been the first one: nothing of the old one that
        depends on its length has happened. A run that came to its target has an end of its own."""
        sound = self.sound()
        if not sound or self.plan == "on target":
            return False
        state = checkpoint.check(sound[-1])["state"]
        return state["full_at"] == 0 or state["step"] <= state["full_at"]

    def alone(self):
        """The result of a run of as many steps that nobody touched."""
        key = (self.plan, self.steps)
        if key not in ALONE:
            name = f"alone-{next(NUMBERS)}"
            run = self.open(name)
            losses = [report.loss for report in run.train()]
            run.close()
            assert min(losses) < CAP - 1  # so that windows are drawn by losses that differ
            ALONE[key] = name
        return self.result(ALONE[key])

    def result(self, name):
        """Losses, evaluations but for those at ends that were none, and weights."""
        folder = weights_dir() / name
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [[line[key] for key in COMPARED] for line in lines if "loss" in line]
        scores = [(line["step"], line["eval_nll"]) for line in lines if "eval_nll" in line]
        scores = [score for score in scores if score[0] not in self.past]
        return losses, scores, sha256(folder / checkpoint.MODEL)


@pytest.mark.parametrize("plan", PLANS)
def test_a_run_disturbed_in_any_way_ends_as_one_left_alone(home, tripwire, plan):
    ALONE.clear()
    run_state_machine_as_test(
        type("Disturbed", (Disturbed,), {"plan": plan}),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=6,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert ALONE
