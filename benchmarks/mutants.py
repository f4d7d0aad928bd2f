"""Changes the modules that prove and keep what was learned, one small fault at a time, and asks the
tests of each whether they notice: `python benchmarks/mutants.py [MODULE …] [--sample N]`.

A fault is one that a slip makes: another comparison or sign, a number off by one, a branch always
or never taken, a statement left out, nothing returned, a slice without its end. Each runs in a fork
that imported everything but the package, in one process, until a first test fails.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = "mlx_shakegpt"
# The files of tests that speak of a module, the quick ones first, and the tests in them.
TESTS = {
    "training/windows": ("windows properties", "windows or epoch or target"),
    "generation/lookup": ("lookup properties", "test_lookup or longest_match"),
    "text/quotations": ("quotations properties", "test_quotations or spans"),
    "verification/repeats": ("measures verify", "test_measures or brute_force or goes_on_so"),
    "verification/extraction": ("measures properties", "test_measures or wilsons"),
    "verification/loss": ("loss", ""),
    "verification/known": ("known", ""),
    "verification/controls": ("measures verify", "control or shuffled or unseen or leak"),
    "verification/figures": ("measures", ""),
    "verification/certificates": ("certificate", ""),
    "verification/comparison": ("certificate comparison", "not fresh_sample"),
    "verification/fresh": ("measures", ""),
    "training/checkpoint": ("checkpoint", "not resumed_run_repeats and not stops_while"),
}
PATIENCE, AT_LEAST = 4, 30  # a fault that takes so many times the tests' time, or seconds, is seen

COMPARE = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
}  # fmt: skip
NAMES = ("min", "max"), ("any", "all"), ("minimum", "maximum"), ("argmin", "argmax")
NAMES += (("bisect_left", "bisect_right"),)
OTHER = dict([*NAMES, *(pair[::-1] for pair in NAMES)])


def faults(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:  # noqa: PLR0912
    """A node's faulty versions, and what each is called."""

    def version(name: str, **fields: object) -> tuple[str, ast.AST]:
        other = copy.deepcopy(node)
        for field, value in fields.items():
            setattr(other, field, value)
        return name, other

    match node:
        case ast.Compare(ops=ops):
            for index, op in enumerate(ops):
                for kind in COMPARE[type(op)]:
                    swapped = [*ops[:index], kind(), *ops[index + 1 :]]
                    yield version(f"{type(op).__name__} → {kind.__name__}", ops=swapped)
        case ast.BinOp(op=op) | ast.AugAssign(op=op):
            if kind := BINARY.get(type(op)):
                yield version(f"{type(op).__name__} → {kind.__name__}", op=kind())
            if isinstance(node, ast.AugAssign):
                yield "removed", ast.Pass()
        case ast.BoolOp(op=op):
            yield version("and ↔ or", op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield f"{type(node.op).__name__} removed", operand
        case ast.Constant(value=bool(value)):
            yield version(f"{value} → {not value}", value=not value)
        case ast.Constant(value=int(value) | float(value)):
            for step in (1, -1):
                yield version(f"{value} → {value + step}", value=value + step)
        case ast.Return(value=value) if value is not None and not _constant(value, None):
            yield version("return None", value=ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Yield()) | ast.Raise():
            yield "removed", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
            yield "removed", ast.Pass()
        case ast.Continue():
            yield "continue → break", ast.Break()
        case ast.Break():
            yield "break → continue", ast.Continue()
        case ast.If() | ast.IfExp():
            for value in (True, False):
                yield version(f"if → {value}", test=ast.Constant(value))
        case ast.comprehension(ifs=[_, *_]):
            yield version("filter removed", ifs=[])
        case ast.Name(id=name) if name in OTHER:
            yield version(f"{name} → {OTHER[name]}", id=OTHER[name])
        case ast.Attribute(attr=name) if name in OTHER:
            yield version(f"{name} → {OTHER[name]}", attr=OTHER[name])
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None:
                yield version("slice from the start", lower=None)
            if upper is not None:
                yield version("slice to the end", upper=None)


def _constant(node: ast.AST, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Where each node that runs stands: its parent, the field, the index in it."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list") or isinstance(tree, ast.JoinedStr):
            continue  # not evaluated, or words of a message
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(node, ast.AST):
                yield tree, field, index if isinstance(value, list) else None
                yield from places(node)


def mutants(source: str) -> Iterator[tuple[int, str, ast.Module]]:
    """All of a module: the line, the fault and the module with it."""
    tree = ast.parse(source)
    for parent, field, index in list(places(tree)):
        holder = getattr(parent, field)
        node = holder if index is None else holder[index]
        for name, other in faults(node):
            _put(parent, field, index, ast.copy_location(other, node))
            whole = ast.fix_missing_locations(copy.deepcopy(tree))
            _put(parent, field, index, node)
            yield getattr(node, "lineno", getattr(parent, "lineno", 0)), name, whole


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


class Faulty(SourceFileLoader):
    """Loads one module from a tree, and is its own finder."""

    def __init__(self, fullname: str, path: str, tree: ast.Module) -> None:
        super().__init__(fullname, path)
        self._tree = tree

    def get_code(self, fullname: str):
        return compile(self._tree, self.path, "exec")

    def find_spec(self, fullname: str, path=None, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None


def run(module: str, tree: ast.Module | None, limit: float | None) -> tuple[bool, float]:
    """Whether the tests of a module pass with a tree in its place, and seconds."""
    begun, child = time.monotonic(), os.fork()
    if not child:
        _test(module, tree)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.monotonic() - begun
        if done:
            return os.waitstatus_to_exitcode(status) == 0, seconds
        if limit and seconds > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False, seconds
        time.sleep(0.01)


def _test(module: str, tree: ast.Module | None) -> None:
    os.setsid()
    if tree is not None:
        os.dup2(os.open(os.devnull, os.O_RDWR), 2)
    os.dup2(2, 1)  # the table is for itself; what fails without a fault is to be seen
    code = 1
    try:
        import pytest

        if tree is not None:
            name = f"{PACKAGE}.{module.replace('/', '.')}"
            sys.meta_path.insert(0, Faulty(name, str(ROOT / PACKAGE / f"{module}.py"), tree))
        files, words = TESTS[module]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--assert=plain"]
        options += ["-k", words]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is imported
        places = [next((ROOT / "tests").rglob(f"test_{name}.py")) for name in files.split()]
        code = pytest.main([*options, *map(str, places)])
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=", ".join(TESTS))
    parser.add_argument("--sample", type=int, default=0, help="faults a module at random; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", type=int, nargs="*", help="faults in these lines")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for name in ("pytest", "hypothesis", f"{PACKAGE}.api", f"{PACKAGE}.cli", "mlx_lm.utils"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    print("| module | faults | seen | |\n|---|---|---|---|")
    for module in options.modules or TESTS:
        _report(module, options)


def _report(module: str, options: argparse.Namespace) -> None:
    all_ = list(mutants((ROOT / PACKAGE / f"{module}.py").read_text(encoding="utf-8")))
    chosen = [m for m in all_ if not options.only or m[0] in options.only]
    if 0 < options.sample < len(chosen):
        chosen = sorted(
            random.Random(options.seed).sample(chosen, options.sample), key=lambda m: m[0]
        )
    passed, clean = run(module, None, None)
    if not passed:
        sys.exit(f"Error: the tests of {module} fail on it as it is")
    limit = max(AT_LEAST, PATIENCE * clean)
    noticed = 0
    for line, name, tree in chosen:
        passed, _ = run(module, tree, limit)
        noticed += not passed
        if passed:
            print(f"    {module}.py:{line}: {name}", file=sys.stderr, flush=True)
    share = f"{noticed / max(1, len(chosen)):.1%}"
    print(f"| {module} | {len(chosen)} of {len(all_)} | {noticed} | {share} |", flush=True)


if __name__ == "__main__":
    main()
