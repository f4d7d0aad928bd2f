"""Makes the golden files anew: a run with its checkpoints and certificate, and an exported model.

    python tests/golden/make.py

They stand for what people have saved: every later version has to read them and to come to the same
figures. To make them anew is right only where a format was changed on purpose, before a release
that nobody has files of; otherwise a failing test has found something.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent
PROGRAM = GOLDEN.parent / "programs" / "golden.py"
TEXT = GOLDEN / "sonnets.txt"
TRAINING = ("--preset", "golden", "--data", TEXT, "--run", "golden", "--checkpoint-every", "595")
PROMPT = "From fairest creatures"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"SHAKEGPT_HOME": folder}

        def shakegpt(*arguments, allowed=(0, 1)):
            command = [sys.executable, str(PROGRAM), *map(str, arguments)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
            assert done.returncode in allowed, arguments
            return done.stdout

        shakegpt("train", *TRAINING)
        shakegpt("verify", "--run", "golden")
        run, exported = GOLDEN / "run", GOLDEN / "exported"
        expected = json.loads(
            shakegpt("generate", PROMPT, "--run", "golden", "--max-tokens", 40, "--json")
        )
        for old in (run, exported):
            shutil.rmtree(old, ignore_errors=True)
        made = Path(folder) / "weights" / "golden"
        shakegpt(
            "export", "--run", "golden", "--to", Path(folder) / "exported", "--dtype", "bfloat16"
        )
        shutil.copytree(made, run, ignore=shutil.ignore_patterns("*.png", "*.bin", "*.toml", ".*"))
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        config["corpus"]["path"] = TEXT.name  # where it lies is nobody's business
        (run / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        exported.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(Path(folder) / "exported" / name, exported / name)
        (GOLDEN / "expected.json").write_text(
            json.dumps({"prompt": PROMPT, "ids": expected["ids"]}) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
