"""A Hugging Face Space on a CPU: the model speaks on the demo's page, with nothing to fetch."""

from __future__ import annotations

import os
import shutil
import tomllib
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import files
from ..text import assets
from ..weights.trained_model import of_folder
from .markdown import front_matter

TEXT = "text.txt"
EXTRAS = ("cpu", "demo")  # that a Space needs
PACKAGE = Path(files.__file__).parent
APP = '''"""The model in model/ speaks on a page; everything that it needs is in this folder."""

from pathlib import Path

from mlx_shakegpt.sharing.space import serve_space

if __name__ == "__main__":
    serve_space(Path(__file__).parent, {name!r})
'''


def write_space(folder: Path, model: Path, repo: str, own_text: bool) -> None:
    """Writes the Space of an exported model: app, requirements, the program, weights, and Tiny
    Shakespeare, where the folder has not a text of its own."""
    shutil.copytree(model, folder / "model", copy_function=_link)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignored)
    kept = assets.ASSETS[1:] if own_text else assets.ASSETS
    for asset in kept:
        target = folder / "data" / asset.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(assets.ensure(asset), target)
    for name, content in {
        "app.py": APP.format(name=repo.rpartition("/")[2]),
        "requirements.txt": "\n".join(requirements()) + "\n",
        "packages.txt": "g++\n",
        "README.md": _readme(repo),
    }.items():
        (folder / name).write_text(content, encoding="utf-8")


def requirements() -> list[str]:
    """What the program and its demo need on Linux, at the versions that are installed here."""
    from packaging.requirements import Requirement

    linux = {"sys_platform": "linux", "platform_system": "Linux"}
    pinned = []
    for need in map(Requirement, _dependencies()):
        # A dependency is for everyone, for a Linux CPU, or for the demo; not for tests.
        extras = ({"extra": name} for name in EXTRAS)
        if need.marker and not any(need.marker.evaluate(linux | extra) for extra in extras):
            continue
        name = f"{need.name}[{','.join(sorted(need.extras))}]" if need.extras else need.name
        try:
            pinned.append(f"{name}=={metadata.version(need.name)}")
        except metadata.PackageNotFoundError:
            pinned.append(f"{name}{need.specifier}")
    return pinned


def _dependencies() -> list[str]:
    """The dependencies that the checkout tells, which its installation may lag behind; without one
    those that the installation tells."""
    if not (own := files.checkout()):
        return metadata.requires(files.PROJECT) or []
    project = tomllib.loads((own / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    return [*project["dependencies"], *(need for name in EXTRAS for need in optional[name])]


def serve_space(folder: Path, name: str) -> None:
    """Serves a Space's folder, with the model under its name, until the process ends; a Space names
    host and port itself, and has a proxy before it whose name the page goes by."""
    os.environ.setdefault("SHAKEGPT_HOME", str(folder))
    from .server import serve_until_stopped

    text = folder / TEXT
    trained = of_folder(folder / "model", text if text.exists() else None, name=name)
    host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    tell = partial(print, flush=True)
    serve_until_stopped(trained, host, port, tell, proxied="SPACE_ID" in os.environ)


def _readme(repo: str) -> str:
    name = repo.rpartition("/")[2]
    settings: dict[str, Any] = {
        "title": name,
        "emoji": "🎭",
        "sdk": "gradio",
        "python_version": "3.11",
    }
    settings |= {"app_file": "app.py", "models": [repo]}
    with suppress(metadata.PackageNotFoundError):  # to write a Space takes no gradio
        settings["sdk_version"] = metadata.version("gradio")
    return (
        f"{front_matter(settings)}\n{name} recites its text. It runs on any CPU: `python app.py`.\n"
    )


def _link(source: str, target: str) -> None:
    """The same file under a second name, as weights are large; a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
