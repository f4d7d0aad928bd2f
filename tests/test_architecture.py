"""The arrows between rooms point one way, and the entrance stays light."""

import ast
import subprocess
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "mlx_shakegpt"
# Each imports only rooms before it.
ROOMS = (
    "files", "settings", "runtime", "text", "model", "weights", "generation", "verification",
    "training", "run", "sharing", "api", "cli",
)  # fmt: skip
SAME_NAMES = {"mlx_shakegpt.model.ops.cpu"}  # gives functions that its modules are named for


def module_of(path):
    """A file's dotted name; a package's is that of its __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports(module):
    """Modules of the package that one imports, wherever in its code."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = package.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        target = ".".join(filter(None, (base, node.module)))
        for alias in node.names:
            name = f"{target}.{alias.name}"
            if name in MODULES and name != module:
                yield name
            elif target in MODULES and target != module:
                yield target


def room(module):
    return module.split(".")[1]


def test_the_top_level_has_its_rooms_and_no_more():
    names = {p.name.removesuffix(".py") for p in PACKAGE.iterdir() if not p.name.startswith("__")}
    assert names - {"py.typed"} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_those_before_it(name):
    own = [module for module in MODULES if module.count(".") and room(module) == name]
    allowed = {*ROOMS[: ROOMS.index(name) + 1]}
    for module in own:
        for other in imports(module):
            if other.count("."):  # the package itself gives the version
                assert room(other) in allowed, f"{module} imports {other}"


def test_nothing_imports_in_a_circle():
    graph = {module: set(imports(module)) for module in MODULES if module.count(".")}
    circle = []
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = error.args[1]
    assert not circle, " → ".join(circle)


def test_no_package_hides_a_module_behind_a_name_that_it_gives():
    for module, path in MODULES.items():
        if path.name != "__init__.py" or module in SAME_NAMES:
            continue
        names = Counter(
            alias.asname or alias.name
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        )
        for name in names:
            assert f"{module}.{name}" not in MODULES, f"{module} gives {name}"


def test_settings_stay_free_of_arrays():
    code = "import sys, mlx_shakegpt.settings.presets, mlx_shakegpt.settings.sampling\n"
    code += "assert not {'mlx', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


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
        "others = [name for name in sys.modules if not name.startswith('mlx_shakegpt')]\n"
        "assert len(others) - before <= 36, sorted(others)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
