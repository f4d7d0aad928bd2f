"""The wheel, away from the checkout: what it installs works, in the user's own folder."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from conftest import POEM, ROOT, tool
from packaging.requirements import Requirement

from mlx_shakegpt import __version__


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the built wheel is installed; its dependencies are this environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    shutil.copytree(
        ROOT, copy,
        ignore=shutil.ignore_patterns(".*", "data", "weights", "build", "*.egg-info", "docs"),
    )  # fmt: skip
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(copy)], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def installed(site, tmp_path, pinned):
    """Runs the installed program in an empty folder of a user of its own."""
    own = tmp_path / "share" / "mlx-shakegpt" / "data"
    own.mkdir(parents=True)
    for file in pinned:
        kept = own / file.relative_to(file.parents[0 if file.suffix else 1])
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, kept)
    away = tmp_path / "away"
    away.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "SHAKEGPT_HOME"}
    environment |= {"XDG_DATA_HOME": str(tmp_path / "share"), "PYTHONPATH": str(site)}

    def run(*arguments):
        command = [sys.executable, str(site / "bin" / "shakegpt"), *arguments]
        return subprocess.run(
            command, cwd=away, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.skipif(sys.platform != "linux", reason="the user's data folder is named by XDG here")
def test_the_wheel_trains_and_speaks_away_from_the_checkout(installed, site, tmp_path):
    assert (site / "mlx_shakegpt" / "py.typed").exists()
    assert (site / "mlx_shakegpt" / "sharing" / "watch.html").exists()
    version = installed("--version")
    assert version.stdout.split() == ["shakegpt,", "version", __version__]
    (tmp_path / "away" / "poem.txt").write_text(POEM)
    options = ["--data", "poem.txt", "--run", "p", "--steps", "2", "--context", "16"]
    trained = installed("train", "--preset", "quick", *options)
    assert trained.returncode == 1 and "Not yet known by heart" in trained.stdout, trained.stderr
    assert (tmp_path / "share" / "mlx-shakegpt" / "weights" / "p" / "model.safetensors").exists()
    spoken = installed("generate", "From", "--max-tokens", "5")
    assert spoken.returncode == 0 and spoken.stdout.startswith("From")
    assert [p.name for p in (tmp_path / "away").iterdir()] == ["poem.txt"]


@pytest.mark.parametrize(
    ("project", "own"),
    [
        ('[project]\nname = "mlx-shakegpt"\n', True),
        ('[project]\nname = "another"\n', False),
        ("[tool.black]\n", False),
        ("project = 3\n", False),
        ("not TOML", False),
        (None, False),
    ],
)
def test_only_its_own_checkout_is_home_to_a_copy_of_the_package(tmp_path, project, own):
    package = tmp_path / "mlx_shakegpt"
    package.mkdir()
    for name in ("__init__.py", "files.py"):
        shutil.copyfile(ROOT / "mlx_shakegpt" / name, package / name)
    if project:
        (tmp_path / "pyproject.toml").write_text(project)
    environment = {k: v for k, v in os.environ.items() if k != "SHAKEGPT_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", "from mlx_shakegpt.files import home; print(home())"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout.strip() == str(tmp_path)) == own
    assert own or done.stdout.strip().endswith("mlx-shakegpt")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands(shakegpt, shell):
    script = shakegpt("completion", shell)
    assert script.code == 0 and f"_SHAKEGPT_COMPLETE={shell}_complete" in script.out
    environment = os.environ | {"_SHAKEGPT_COMPLETE": f"{shell}_complete"}
    environment |= {"COMP_WORDS": "shakegpt ver", "COMP_CWORD": "1"}
    code = "import sys; sys.argv = ['shakegpt']; from mlx_shakegpt.cli import app; app()"
    offered = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "verify" in offered.stdout and "train" not in offered.stdout
    done = subprocess.run(
        [tool(shell), "-n"], input=script.out, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def installs(extras, system):
    """Names of all that pip would install for this project with some extras, on Linux or a Mac, as
    far as what is installed here tells."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = {"sys_platform": system, "platform_system": system.title()}
    needs = [Requirement(need) for need in project["dependencies"]]
    needs += [Requirement(n) for extra in extras for n in project["optional-dependencies"][extra]]
    seen = set()
    while needs:
        need = needs.pop()
        chosen = [{"extra": extra} for extra in need.extras] or [{"extra": ""}]
        for name in need.extras if need.name == project["name"] else ():
            needs += map(Requirement, project["optional-dependencies"][name])
        if need.marker and not need.marker.evaluate(environment | {"extra": ""}):
            continue
        if (key := (need.name, frozenset(need.extras))) in seen:
            continue
        seen.add(key)
        try:
            further = map(Requirement, metadata.requires(need.name) or [])
        except metadata.PackageNotFoundError:
            continue
        for other in further:
            if not other.marker or any(other.marker.evaluate(environment | e) for e in chosen):
                other.marker = None
                needs.append(other)
    return {name.lower() for name, _ in seen}


@pytest.mark.parametrize(
    ("extras", "on_linux"),
    [
        ((), set()),
        (("cpu",), {"mlx-cpu"}),
        (("cuda",), {"mlx-cuda-13"}),
        (("cuda", "demo", "reports"), {"mlx-cuda-13"}),
        (("test", "cuda"), {"mlx-cuda-13"}),
    ],
)
def test_at_most_one_backend_of_mlx_is_installed(extras, on_linux):
    backends = {"mlx-cpu", "mlx-cuda-12", "mlx-cuda-13", "mlx-metal"}
    linux, mac = installs(extras, "linux"), installs(extras, "darwin")
    assert linux & backends == on_linux and mac & backends == {"mlx-metal"}
    assert {"mlx", "mlx-lm", "transformers"} <= linux & mac
    assert ("scipy-openblas32" in linux) == ("mlx-cpu" in on_linux)
    assert "scipy-openblas32" not in mac


PIP = """#!/bin/sh
echo 'Obtaining file:///somewhere'
echo 'Collecting mlx[cpu]>=0.32.4 (from mlx-shakegpt==0.1.0)'
echo '  Downloading mlx-0.32.4.whl (1.0 MB)'
echo 'Requirement already satisfied: numpy>=2.4 in somewhere'
echo 'Installing collected packages: mlx, mlx-shakegpt'
echo "$@" >> asked
echo 'a warning' >&2
exit $CODE
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(("code", "backend"), [(0, "cpu"), (0, "cuda"), (1, "cpu")])
def test_make_names_what_pip_gets_and_fails_where_it_does(tmp_path, code, backend):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PIP)
    python.chmod(0o755)
    own = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}  # as of no other make
    done = subprocess.run(
        ["make", f"BACKEND={backend}", "setup"], cwd=tmp_path, env=own | {"CODE": str(code)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[1:3] == ["  mlx", "  unpacking all of them"]
    assert "a warning" in done.stderr
    assert (tmp_path / "asked").read_text().split() == [
        "-m", "pip", "install", "--editable", f".[{backend}]",
    ]  # fmt: skip
    assert (done.returncode == 0) == (code == 0) == (tmp_path / ".venv" / "installed").exists()
