"""Runs a published Space in a fresh virtual environment, as a CPU Space would, and asks it.

python cli.py publish --repo someone/romeo --to romeo --dry-run
python benchmarks/space.py romeo/space
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import click


def ask(address: str, prompt: str, tokens: int) -> str:
    """What the page says to a prompt, as HTML."""
    body = json.dumps({"data": [prompt, tokens, 0, 0]}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}/gradio_api/call/say", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        event = json.load(response)["event_id"]
    address = f"{address}/gradio_api/call/say/{event}"
    with urllib.request.urlopen(address, timeout=600) as response:
        answer = response.read().decode()
    if "event: complete" not in answer:
        raise SystemExit(f"Error: the Space did not answer: {answer[-300:]}")
    return json.loads(answer.rpartition("data: ")[2])[0]


@click.command()
@click.argument("space", type=click.Path(exists=True, file_okay=False))
@click.option("--prompt", default="ROMEO:", show_default=True)
def main(space: str, prompt: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
        python = str(home / "venv" / "bin" / "python")
        needs = str(Path(space, "requirements.txt").resolve())
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", needs], check=True)
        installed = time.monotonic()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("SHAKEGPT", "PYTHON"))}
        environment = plain | {"GRADIO_SERVER_PORT": str(port), "HOME": name}
        with subprocess.Popen(
            [python, "app.py"], cwd=space, env=environment, stdout=subprocess.PIPE, encoding="utf-8"
        ) as process:
            try:
                line = process.stdout.readline()
                if "speaks at" not in line:
                    raise SystemExit("Error: the Space did not start; see above")
                up = time.monotonic()
                output = ask(line.split()[-1].rstrip("/"), prompt, 100)
                spoken = time.monotonic()
            finally:
                process.terminate()
    if "<mark" not in output:
        raise SystemExit(f"Error: nothing that it said stands in its text: {output}")
    click.echo(output)
    click.echo(
        f"\nInstalled in {installed - start:.0f} s, up after {up - installed:.0f} s more; spoke "
        f"100 tokens in {spoken - up:.0f} s, kernels compiled anew."
    )


if __name__ == "__main__":
    main()
