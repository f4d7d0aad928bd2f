"""The arrows between modules point one way, and the entrance stays light."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "mlx_shakegpt"
# Each may import what stands before it.
ORDER = [
    "settings", "files", "runtime", "text", "model", "weights", "generation", "verification",
    "training", "run", "api", "sharing", "cli",
]  # fmt: skip


def imports(path):
    """Modules of the package that a file imports."""
    inside = path.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = inside[: len(inside) - node.level]
            parts = [*base, *(node.module or "").split(".")]
            parts = [p for p in parts if p]
            yield from [parts[0]] if parts else [alias.name for alias in node.names]


def test_imports_point_one_way():
    names = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert names - {"py.typed"} == set(ORDER)
    for path in PACKAGE.rglob("*.py"):
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imports(path):
            if name in ORDER and name != own:
                assert ORDER.index(name) < ORDER.index(own), f"{own} imports {name}"


def test_modules_stay_small():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 240, path


@pytest.mark.parametrize("command", [[], ["train"], ["generate"]])
def test_help_imports_neither_mlx_nor_anything_heavy_and_little_else(command):
    code = (
        f"import sys; sys.argv = ['cli.py', *{command}, '--help']\n"
        "import click\n"
        "before = len(sys.modules)\n"
        "from mlx_shakegpt.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'mlx', 'numpy', 'mlx_lm', 'matplotlib', 'rich', 'tiktoken'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert len(sys.modules) - before <= 60, sorted(sys.modules)"  # about half of them its own
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
