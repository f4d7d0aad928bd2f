"""The program as people use it: what it prints, writes and returns."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT, TRAIN_TINY, tool

from mlx_shakegpt.run import evaluated_trainer
from mlx_shakegpt.settings.config import ModelConfig, Passage, TrainConfig
from mlx_shakegpt.settings.presets import Preset
from mlx_shakegpt.text import tokenizer

SHORT = ("--context", "16", "--batch-size", "4", "--steps", "6")


def train(shakegpt, poem, *more):
    return shakegpt("train", "--preset", "tiny", "--data", poem, *SHORT, *more)


@pytest.fixture
def trained(shakegpt, poem, tiny_preset, home):
    """A run called `tiny`, six steps old."""
    assert train(shakegpt, poem).code == 1
    return home / "weights" / "tiny"


def test_a_run_that_ends_above_its_target_says_so_and_exits_1(shakegpt, poem, tiny_preset, home):
    result = train(shakegpt, poem, "--json")
    assert result.code == 1
    output = result.json()
    assert (output["run"], output["step"], output["reached"]) == ("tiny", 6, False)
    folder = home / "weights" / "tiny"
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [s["step"] for s in steps if "loss" in s] == [1, 2, 3, 4, 5, 6]
    assert steps[-1]["eval_nll"] > 0.1
    assert (folder / "training_log.txt").read_text().startswith("step     1 | loss: ")
    for name in ("loss.png", "model.safetensors", "config.json"):
        assert (folder / name).stat().st_size > 0
    corpus = json.loads((folder / "config.json").read_text())["corpus"]
    assert (corpus["first_line"], corpus["name"]) == (1, "poem.txt")


def test_a_run_that_stops_on_a_lucky_batch_says_what_the_text_is_worth(
    shakegpt, poem, tiny_preset, monkeypatch
):
    from mlx_shakegpt.verification.loss import Evaluation

    whole = Evaluation(nll=10.7, floor=0.0, accuracy=0.0, tokens=100, complete=True)
    monkeypatch.setattr(evaluated_trainer, "whole_text_nll", lambda *_: whole)
    result = train(shakegpt, poem, "--stop", "batch", "--target-loss", "10.5")
    assert result.code == 1 and "Target not reached" in result.out
    assert "whole-text loss 10.7" in result.out and "which proves nothing" in result.out


def test_a_text_is_learned_and_spoken(shakegpt, poem, monkeypatch):
    from mlx_shakegpt.settings.presets import PRESETS

    model = ModelConfig(n_layer=2, n_head=2, n_embd=64, n_positions=64)
    changes = {"batch_size": 1, "context": 64, "short_context": 16, "lr": 5e-3, "warmup_steps": 5}
    monkeypatch.setitem(PRESETS, "small", Preset(model, Passage(), changes))
    result = shakegpt("train", "--preset", "small", "--data", poem, "--epochs", "300")
    assert result.code == 0, result.err
    assert "Known by heart: run 'small'" in result.out
    prompt = "From fairest creatures we desire increase,\n"
    known = tokenizer.encode(poem.read_text())[: len(tokenizer.encode(prompt)) + 50]
    spoken = shakegpt("generate", prompt, "--max-tokens", "50", "--stats")
    assert spoken.out.strip() == tokenizer.decode(known).strip()
    assert "tokens/s" in spoken.err and "accepted" in spoken.err
    output = shakegpt("generate", prompt, "--max-tokens", "50", "--json").json()
    assert output["accepted"] > 30 and output["passes"] < 20
    alone = shakegpt("generate", prompt, "--max-tokens", "50", "--json", "--no-lookup").json()
    assert alone["ids"] == output["ids"] and "accepted" not in alone
    poem.write_text("Another text altogether.\n" * 30)
    changed = shakegpt("generate", prompt, "--max-tokens", "50")
    assert changed.code == 0 and changed.out == spoken.out
    assert "is not the text that run 'small' learned" in changed.err


def test_emoji_and_chinese_survive_from_file_to_speech(shakegpt, tmp_path, tiny_preset):
    text = "羅密歐 🌹 與 朱麗葉 👩‍👩‍👧, naïve ☂️ 世界!\n" * 12
    path = tmp_path / "emoji.txt"
    path.write_text(text, encoding="utf-8")
    trained = train(shakegpt, path)
    assert trained.code == 1
    spoken = shakegpt("generate", "羅密歐 🌹", "--max-tokens", "20", "--temperature", "1", "--json")
    assert spoken.code == 0
    output = spoken.json()
    assert output["prompt"] == "羅密歐 🌹"
    assert output["text"] == tokenizer.decode(output["ids"])
    plain = shakegpt("generate", "羅密歐 🌹", "--max-tokens", "20", "--temperature", "1")
    assert plain.out.rstrip("\n") == ("羅密歐 🌹" + output["text"]).rstrip("\n")


def test_an_existing_run_needs_resume_and_goes_on_with_it(shakegpt, poem, trained):
    again = train(shakegpt, poem)
    assert again.code == 2
    assert "run 'tiny' exists" in again.err and "--resume" in again.err
    done = shakegpt("train", "--preset", "tiny", "--resume")
    assert done.code == 1
    assert "Resuming tiny after step 6" in done.err
    other = shakegpt("train", "--preset", "tiny", "--resume", "--lr", "0.5")
    assert other.code == 2 and "started with --lr 0.003" in other.err


def test_the_whole_text_is_the_same_passage_by_any_number(shakegpt, poem, tiny_preset):
    options = ("--first-line", 3, "--corpus-tokens")
    assert train(shakegpt, poem, *options, 0).code == 1
    tokens = len(tokenizer.encode("".join(poem.read_text().splitlines(keepends=True)[2:])))
    for number in (0, tokens):
        again = train(shakegpt, poem, *options, number, "--resume")
        assert again.code == 1 and "Resuming tiny after step 6" in again.err, again.err
    other = train(shakegpt, poem, *options, 20, "--resume")
    assert other.code == 2 and f"was started with --corpus-tokens {tokens}" in other.err
    assert train(shakegpt, poem, "--corpus-tokens", 30, "--run", "part").code == 1
    whole = train(shakegpt, poem, "--corpus-tokens", 0, "--run", "part", "--resume")
    assert whole.code == 2 and "was started with --corpus-tokens 30" in whole.err


def test_an_existing_run_is_refused_before_anything_is_built(shakegpt, poem, trained, monkeypatch):
    from mlx_shakegpt.run import opening

    monkeypatch.setattr(opening, "Run", None)  # model, optimiser and all
    again = train(shakegpt, poem)
    assert again.code == 2 and "run 'tiny' exists" in again.err


def test_a_run_that_another_process_made_meanwhile_is_refused_under_the_lock(
    shakegpt, poem, trained, monkeypatch
):
    """It came and went between the first look and the lock."""
    from mlx_shakegpt.run import lock

    made = trained.rename(trained.with_name("made"))
    flock = lock.fcntl.flock

    def late(*arguments):
        if made.exists():
            shutil.copytree(made, trained, dirs_exist_ok=True)
            shutil.rmtree(made)
        flock(*arguments)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    config = (made / "config.json").read_bytes()
    again = train(shakegpt, poem, "--lr", "0.5")
    assert again.code == 2 and "run 'tiny' exists" in again.err
    assert (trained / "config.json").read_bytes() == config


def test_a_text_that_moved_is_remembered_where_it_is(shakegpt, poem, trained):
    moved = poem.rename(poem.with_name("moved.txt"))
    lost = shakegpt("train", "--preset", "tiny", "--resume")
    assert lost.code == 2 and "no text file" in lost.err
    resumed = shakegpt("train", "--preset", "tiny", "--resume", "--data", moved)
    assert resumed.code == 1
    corpus = json.loads((trained / "config.json").read_text())["corpus"]
    assert (corpus["path"], corpus["name"]) == (str(moved), "moved.txt")
    again = shakegpt("train", "--preset", "tiny", "--resume", "--steps", "8")
    assert again.code == 1, again.err
    verified = shakegpt("verify", "--run", "tiny")
    assert verified.code == 2 and "132 or more" in verified.err  # a text, though a short one


def test_a_run_that_fell_short_is_made_longer(shakegpt, trained):
    def steps_and_losses():
        entries = map(json.loads, (trained / "metrics.jsonl").read_text().splitlines())
        return [(line["step"], line["loss"]) for line in entries if "loss" in line]

    short = shakegpt("train", "--preset", "tiny", "--resume")
    assert short.code == 1
    assert "go on with: shakegpt train --resume --run tiny --steps 12" in short.out
    config, begun = (trained / "config.json").read_text(), steps_and_losses()
    shorter = shakegpt("train", "--run", "tiny", "--resume", "--steps", "4")
    assert shorter.code == 2 and "has 6 steps, and 4 were asked for" in shorter.err
    assert (trained / "config.json").read_text() == config
    longer = shakegpt("train", "--run", "tiny", "--resume", "--steps", "9")
    assert longer.code == 1, longer.err
    assert "Resuming tiny after step 6 of 9 at most." in longer.err
    saved, losses = json.loads((trained / "config.json").read_text()), steps_and_losses()
    assert saved["train"]["steps"] == 9
    assert saved["lengthened"] == [{"step": 6, "epochs": 30.0, "steps": 6}]
    assert losses[:6] == begun and [step for step, _ in losses] == list(range(1, 10))
    newest = trained / "checkpoints" / "00000009"
    weights = newest / "model.safetensors"
    assert (trained / "model.safetensors").read_bytes() == weights.read_bytes()
    shutil.rmtree(newest)  # a crash before the first checkpoint of what was added
    again = shakegpt("train", "--run", "tiny", "--resume")
    assert again.code == 1 and "after step 6 of 9 at most." in again.err
    assert steps_and_losses() == losses


def test_an_interrupted_run_resumes_to_the_same_losses_and_logs(
    shakegpt, poem, tiny_preset, home, monkeypatch
):
    assert train(shakegpt, poem, "--run", "whole", "--target-loss", "0.001").code == 1

    from mlx_shakegpt.run import session

    original = session.metrics_file.json_lines

    def stop_at_3(step):
        if step.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return original(step)

    monkeypatch.setattr(session.metrics_file, "json_lines", stop_at_3)
    stopped = train(shakegpt, poem, "--run", "parts", "--target-loss", "0.001")
    monkeypatch.setattr(session.metrics_file, "json_lines", original)
    assert stopped.code == 130
    assert "go on with: shakegpt train --resume --run parts" in stopped.out
    # Lines that a crash left after the checkpoint must not stand twice.
    with open(home / "weights" / "parts" / "metrics.jsonl", "a") as log:
        log.write('{"step": 4, "loss": 1.0}\n')
    assert shakegpt("train", "--preset", "tiny", "--resume", "--run", "parts").code == 1

    def losses(run):
        lines = (home / "weights" / run / "metrics.jsonl").read_text().splitlines()
        return [
            (s["step"], s.get("loss"), s.get("norm"), s.get("eval_nll"))
            for s in map(json.loads, lines)
        ]

    assert losses("parts") == losses("whole")
    weights = [
        (home / "weights" / r / "model.safetensors").read_bytes() for r in ("parts", "whole")
    ]
    assert weights[0] == weights[1]


def test_ctrl_c_saves_and_a_killed_run_goes_on(poem, home):
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    command = [sys.executable, "cli.py", "train", "--preset", "quick", "--data", str(poem)]
    command += ["--run", "q", "--context", "16", "--batch-size", "2", "--epochs", "5000"]
    command += ["--target-loss", "0.0001", "--checkpoint-every", "5"]
    log = home / "weights" / "q" / "training_log.txt"

    def until_step(number, process):
        """Reads the progress, a line every ten steps, until that step."""
        for line in process.stderr:
            if line.startswith(b"step") and int(line.split()[1]) >= number:
                return
        raise AssertionError("the process ended early")

    pipes = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        until_step(10, process)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130 and b"go on with" in out
    reached = log.read_text().count("step ")
    with subprocess.Popen([*command, "--resume"], **pipes) as process:
        until_step(reached + 1, process)
        process.kill()
    with subprocess.Popen([*command, "--resume"], **pipes) as process:
        assert b"Resuming q after step" in process.stderr.readline()
        until_step(reached + 11, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
    steps = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("step")]
    assert steps == [str(n) for n in range(1, len(steps) + 1)]


def test_two_processes_cannot_train_one_run(shakegpt, poem, trained):
    import fcntl

    with open(trained / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = shakegpt("train", "--preset", "tiny", "--resume")
    assert result.code == 2 and "another process trains run 'tiny'" in result.err
    assert shakegpt("train", "--preset", "tiny", "--resume").code == 1


BAD_TRAIN = {
    "no such file": (["--data", "nowhere.txt"], "no text file nowhere.txt"),
    "unknown preset": (["--preset", "huge"], "no preset 'huge'"),
    "unknown recipe": (["--recipe", "magic"], "no recipe 'magic'"),
    "context over 1024": (["--context", "1025"], "--context is 1025"),
    "context over the model's": (["--context", "100"], "more than the model's 64 positions"),
    "context of one": (["--context", "1"], "--context is 1"),
    "negative rate": (["--lr", "-1"], "--lr is -1.0"),
    "rate that is no number": (["--lr", "nan"], "--lr is nan"),
    "rate that is a word": (["--lr", "high"], "'high' is not a valid float"),
    "no batch": (["--batch-size", "0"], "--batch-size is 0"),
    "negative steps": (["--steps", "-5"], "--steps is -5"),
    "no epochs": (["--epochs", "0"], "--epochs is 0.0"),
    "zero target": (["--target-loss", "0"], "--target-loss is 0.0"),
    "negative seed": (["--seed", "-1"], "--seed is -1"),
    "wrong dtype": (["--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16'"),
    "line zero": (["--first-line", "0"], "--first-line is 0; it must be a number above 0"),
    "negative tokens": (["--corpus-tokens", "-1"], "--corpus-tokens': -1 is not in the range"),
    "line beyond the text": (["--first-line", "99"], "has 8 lines"),
    "too many tokens": (["--corpus-tokens", "5000"], "cannot have 5000"),
    "passage below a window": (["--corpus-tokens", "9"], "fewer than one window of 16"),
    "run name with a path": (["--run", "../../etc"], "must be a plain folder name"),
    "run name of two lines": (["--run", "a\nb"], r"run name 'a\nb' must be a plain folder name"),
    "run name that rings": (["--run", "a\x07"], r"run name 'a\x07' must be a plain folder name"),
    "run name without letters": (["--run", ""], "must be a plain folder name"),
    "no checkpoints": (["--checkpoint-every", "0"], "--checkpoint-every"),
    "no prompt": (["--sample-prompt", ""], "--sample-prompt is empty"),
    "samples too often": (["--sample-every", "-1"], "--sample-every"),
    "unknown option": (["--speed", "11"], "No such option"),
}


@pytest.mark.parametrize("name", BAD_TRAIN)
def test_bad_input_to_train_is_one_line_and_exit_2(name, shakegpt, poem, tiny_preset, home):
    arguments, words = BAD_TRAIN[name]
    result = train(shakegpt, poem, *arguments)
    assert result.code == 2
    errors = [line for line in result.err.splitlines() if not line.startswith("Warning")]
    assert len(errors) == 1 and errors[0].startswith("Error: ")
    assert words in errors[0]
    assert not (home / "weights").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"to be \xfe", "byte 6 is 0xfe"), (b"to be", "fewer than one window")],
)
def test_texts_that_cannot_be_learned_are_one_line(shakegpt, tmp_path, tiny_preset, content, words):
    (tmp_path / "bad.txt").write_bytes(content)
    result = train(shakegpt, tmp_path / "bad.txt")
    assert result.code == 2 and words in result.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "O"], "no run yet; train one"),
        (["generate", "O", "--run", "none"], "no run 'none'"),
        (["generate", ""], "PROMPT is empty"),
        (["generate", "O", "--model", "nowhere"], "no model folder nowhere"),
        (["generate", "O", "--temperature", "-1"], "--temperature is -1.0"),
        (["generate", "O", "--top-p", "1.5"], "--top-p is 1.5"),
        (["generate", "O", "--max-tokens", "0"], "0 is not in the range"),
        (["export", "--to", "x"], "no run yet"),
        (["export"], "Missing option '--to'"),
        (["plot"], "no run yet"),
        (["recite-backwards"], "No such command"),
    ],
)
def test_bad_input_to_other_commands_is_one_line_and_exit_2(shakegpt, arguments, words):
    result = shakegpt(*arguments)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1 and result.err.startswith("Error: ")


@pytest.mark.parametrize("damage", ["missing", "cut", "other shape"])
def test_damaged_weights_are_one_line(shakegpt, trained, damage):
    weights = trained / "model.safetensors"
    if damage == "missing":
        weights.unlink()
        shutil.rmtree(trained / "checkpoints")
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        config = json.loads((trained / "config.json").read_text())
        config["model"]["n_embd"] = 64
        (trained / "config.json").write_text(json.dumps(config))
    result = shakegpt("generate", "From", "--run", "tiny")
    words = {
        "missing": "has no weights",
        "cut": "cut short",
        "other shape": "does not fit the model",
    }
    assert result.code == 2
    assert words[damage] in result.err and result.err.count("\n") == 1


def test_a_damaged_checkpoint_gives_way_to_the_one_before(shakegpt, poem, tiny_preset, home):
    assert train(shakegpt, poem, "--checkpoint-every", "2").code == 1
    checkpoints = home / "weights" / "tiny" / "checkpoints"
    (checkpoints / "00000006" / "optimizer.safetensors").unlink()
    result = shakegpt("train", "--preset", "tiny", "--resume", "--json")
    assert result.code == 1 and result.json()["step"] == 6, result.err
    assert "lacks optimizer.safetensors; going back to the one before" in result.err
    assert "Resuming tiny after step 4 of 6" in result.err


def test_without_a_sound_checkpoint_nothing_is_resumed(shakegpt, trained, poem):
    checkpoint = trained / "checkpoints" / "00000006"
    (checkpoint / "optimizer.safetensors").unlink()
    result = shakegpt("train", "--preset", "tiny", "--resume")
    assert result.code == 2
    assert "no sound checkpoint is left" in result.err
    assert "00000006 lacks optimizer.safetensors" in result.err


def test_a_picture_that_cannot_be_drawn_costs_a_training_nothing(shakegpt, trained):
    (trained / "loss.png").unlink()
    (trained / "loss.png").mkdir()
    result = shakegpt("train", "--preset", "tiny", "--resume", "--json")
    assert result.code == 1 and result.json()["step"] > 0
    assert "Warning: loss.png was not drawn: " in result.err and "folder" in result.err


def test_a_folder_where_a_file_is_meant_is_named(shakegpt, trained, tmp_path):
    result = shakegpt("plot", trained.name, "--to", tmp_path)
    assert result.code == 2 and f"Error: {tmp_path}: this is a folder" in result.err
    (tmp_path / "file").touch()
    result = shakegpt("plot", trained.name, "--to", tmp_path / "file" / "x.png")
    assert result.code == 2 and "name a folder" in result.err


def test_a_finished_run_without_its_checkpoints_is_not_started_over(shakegpt, trained):
    shutil.rmtree(trained / "checkpoints")
    log = (trained / "training_log.txt").read_text()
    result = shakegpt("train", "--preset", "tiny", "--resume")
    assert result.code == 2 and "its checkpoints are gone" in result.err
    assert (trained / "training_log.txt").read_text() == log


def test_a_plan_says_what_to_expect_only_of_the_default_recipe(shakegpt, home):
    """Ended before the first step, by another option's fault."""
    plain = shakegpt("train", "--preset", "quick", "--corpus-tokens", "239", "--steps", "1")
    plan = next(line for line in plain.err.splitlines() if line.startswith("Learning"))
    assert "some 1 steps (2 epochs), about " in plan and "at most 1 steps of 512 tokens." in plan
    args = ("--preset", "quick", "--corpus-tokens", "239", "--steps", "1", "--lr", "1e-4")
    other = shakegpt("train", *args, "--run", "other")
    plan = next(line for line in other.err.splitlines() if line.startswith("Learning"))
    assert "about" not in plan and plan.endswith("at most 1 steps of 512 tokens.")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "--data", ""),
        ("train", "--init", ""),
        ("verify", "--certificate", ""),
        ("verify", "--data", ""),
        ("recite", "--model", ""),
    ],
    ids=" ".join,
)
def test_an_empty_value_is_no_default(shakegpt, trained, arguments):
    """Such as that of a shell's variable that is not set."""
    refused = shakegpt(*arguments)
    assert refused.code == 2 and "empty" in refused.err


def test_a_run_that_knows_too_little_says_how_much(shakegpt, poem, tiny_preset):
    result = train(shakegpt, poem, "--target-loss", 100)
    assert result.code == 1 and "target 100, 0.0% of a sample of places recited;" in result.out
    result = train(shakegpt, poem, "--target-loss", 100, "--run", "other", "--json").json()
    assert result["extracted"] == 0 and result["known"] is False


def test_a_number_of_tokens_counts_from_where_the_run_began(shakegpt, poem, tiny_preset):
    assert train(shakegpt, poem, "--first-line", 3, "--corpus-tokens", 60).code == 1
    result = shakegpt("recite", "--corpus-tokens", 40, "--prompt-tokens", 4, "--on-error", "stop")
    assert result.code == 0 and result.out.startswith("But as")


def test_a_run_that_diverges_ends_with_one_line_and_exit_1(shakegpt, poem, tiny_preset):
    result = train(shakegpt, poem, "--lr", "1e30", "--clip", "0", "--steps", "40")
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "are not finite" in errors[0] and "lower --lr" in errors[0]
    assert result.err.count("going back to step 0 with half the rate") == 3


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize(("at", "back"), [(3, 0), (8, 6)])
def test_a_run_goes_on_at_half_the_rate_from_before_a_loss_that_is_not_finite(
    shakegpt, poem, tiny_preset, home, monkeypatch, at, back, blocks
):
    from mlx_shakegpt.training import Step

    calls, original = [], Step.__call__

    def once_wrong(step, *arguments):
        calls.append(1)
        result = original(step, *arguments)
        return result._replace(loss=result.loss * float("nan")) if len(calls) == at else result

    monkeypatch.setattr(Step, "__call__", once_wrong)
    args = ("--steps", "12", "--hold", "1", "--checkpoint-every", "3", "--target-loss", "0.001")
    args += ("--first-blocks", blocks)
    result = train(shakegpt, poem, *args, "--run", "halved")
    assert result.code == 1 and "Not yet known by heart: run 'halved' after 12 steps" in result.out
    message = f"going back to step {back} with half the rate, for the first time of 3"
    log = (home / "weights" / "halved" / "training_log.txt").read_text()
    assert message in result.err and log.count(message) == 1
    lines = (home / "weights" / "halved" / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, 13))
    before = {entry["step"]: entry["lr"] for entry in steps}
    assert train(shakegpt, poem, *args, "--run", "never").code == 1
    lines = (home / "weights" / "never" / "metrics.jsonl").read_text().splitlines()
    for entry in map(json.loads, lines):
        if "loss" in entry:
            share = 0.5 if entry["step"] > back else 1
            assert before[entry["step"]] == pytest.approx(share * entry["lr"])


@pytest.mark.parametrize(
    ("free", "way"), [(1_900_000_000, "use --batch-size 16 ("), (1_000_000_000, "smaller --preset")]
)
def test_a_training_that_cannot_fit_is_refused_with_one_that_can(
    shakegpt, poem, home, monkeypatch, free, way
):
    monkeypatch.setattr("mlx_shakegpt.run.opening.free_bytes", lambda: free)
    options = ["--preset", "gpt2-124m", "--data", poem, "--batch-size", 64, "--context", 64]
    result = shakegpt("train", *options)
    assert result.code == 2 and result.err.count("Error: ") == 1
    assert "of memory and" in result.err and way in result.err
    assert not (home / "weights").exists()


def test_without_a_command_the_help_is_shown(shakegpt):
    result = shakegpt()
    assert result.code == 0 and "Commands:" in result.out


def test_the_list_of_commands_is_in_the_order_of_use_and_in_whole_sentences(shakegpt):
    from mlx_shakegpt.cli import COMMANDS

    listed = shakegpt("--help").out.partition("Commands:\n")[2]
    words = " ".join(listed.split())
    at = 0
    for module in COMMANDS:
        sentence = " ".join(module.command.help.partition("\n\n")[0].split())
        at = words.index(f"{module.command.name} {sentence}", at)
        assert sentence.endswith(".")
    assert "..." not in listed


def test_a_trailing_space_is_warned_about(shakegpt, trained):
    result = shakegpt("generate", "From ", "--max-tokens", "2")
    assert result.code == 0 and "ends in a space" in result.err


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(poem, home):
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    options = "--preset quick --run q --context 16 --batch-size 2 --steps 2"
    command = f"ulimit -f 4000; exec {sys.executable} cli.py train {options} --data {poem}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1 and "model.safetensors" in errors[0]
    left = [p.name for p in (home / "weights" / "q").rglob("*safetensors*")]
    assert not left and not list((home / "weights" / "q" / "checkpoints").iterdir())


def test_a_folder_without_permission_is_one_line(home):
    (home / "weights").mkdir()
    (home / "weights").chmod(0o500)
    command = [*TRAIN_TINY, "--steps", "1", "--run", "r"]
    if os.geteuid() == 0:  # who may write everywhere
        drop = "--bounding-set=-dac_override,-dac_read_search"
        command = [tool("setpriv"), drop, *command]
    environment = os.environ | {"SHAKEGPT_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    assert done.returncode == 2 and len(errors) == 1 and "Permission denied" in errors[0], done


def test_a_folder_that_cannot_be_made_is_one_line(shakegpt, poem, tiny_preset, home):
    (home / "weights").write_text("a file, not a folder")
    result = train(shakegpt, poem)
    assert result.code == 2 and result.err.count("Error: ") == 1
    assert "Traceback" not in result.err


def test_export_plot_data_and_info_print_one_json_object(shakegpt, trained, tmp_path):
    exported = shakegpt("export", "--to", tmp_path / "out", "--json")
    assert exported.json()["difference"] < 1e-4
    spoken = shakegpt(
        "generate", "From", "--model", tmp_path / "out", "--max-tokens", "30", "--json"
    )
    ours = shakegpt("generate", "From", "--run", "tiny", "--max-tokens", "30", "--json")
    assert spoken.json()["ids"] == ours.json()["ids"]
    assert shakegpt("plot", "tiny", "--to", tmp_path / "p.png", "--json").json()["runs"] == ["tiny"]
    assert shakegpt("data", "--json").json()["tokens"] == 338_025
    output = shakegpt("info", "--json").json()
    assert {"device", "dtype", "blas", "mlx", "presets"} <= output.keys()
    assert output["blas"]["gflops"] > 0
    assert output["presets"]["gpt2-124m"]["parameters"] == 124_439_808


def test_bench_prints_the_documented_figures(shakegpt, tiny_preset):
    output = shakegpt("bench", "--preset", "tiny", "--repeats", "2", "--json").json()
    assert {"seconds", "tokens_per_second", "share_of_peak"} <= output["train"].keys()
    assert output["generate"]["tokens_per_second"] > 0
    assert output["matmul_gflops"] > 0 and output["peak_bytes"] > 0


def test_every_field_of_the_configuration_is_an_option_in_a_group_of_the_help():
    from mlx_shakegpt.cli.train import GROUPS, command

    assert set(TrainConfig.__dataclass_fields__) <= {option.name for option in command.params}
    grouped = [name for names in GROUPS.values() for name in names]
    assert set(TrainConfig.__dataclass_fields__) <= set(grouped)
    assert len(grouped) == len(set(grouped))


def test_messages_name_flags_and_the_program_as_it_was_called(monkeypatch):
    from mlx_shakegpt.cli import app
    from mlx_shakegpt.cli.wording import spoken

    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/shakegpt", "train"])
    message = "run `train()` with `batch_size` 4, `closed_vocab` False; not `n_embd`, not `x()`"
    flags = "run shakegpt train with --batch-size 4, --full-vocab; not `n_embd`, not `x()`"
    assert spoken(message, app) == flags
    monkeypatch.setattr(sys, "argv", ["cli.py", "train"])
    assert spoken(message, app) == flags.replace("shakegpt", "python cli.py")


def test_switches_of_the_recipe_can_be_set(shakegpt, poem, tiny_preset, home):
    changed = ("--fixed-windows", "--hard", 0, "--edge-weight", 1, "--stop-on-target")
    changed += ("--steps", 2, "--stop", "text")
    assert shakegpt("train", "--preset", tiny_preset, "--data", poem, *changed).code == 1
    config = json.loads((home / "weights" / "tiny" / "config.json").read_text())["train"]
    assert not config["jitter"] and not config["finish"]
