"""Changes a module in every small way that could hide a fault, and tells which changes no test notices.

    python -m tools.mutate src/avow/methods/tee/verify.py tests/methods/tee [-k EXPRESSION]

Each mutant is one change: a comparison moved or turned round, a condition always or never true, `and` for `or`, a number one higher, a
byte string one longer, min for max. A mutant that survives is a missing test, or a change without a meaning; a person judges which.
Every mutant runs in a process of its own, on a copy of the sources; the checkout is never touched.
"""

import argparse
import ast
import copy
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src"
SECONDS_PER_MUTANT = 120

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Mod: ast.Mult,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}

Change = Callable[[ast.AST], None]


def changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """What can be changed at one node: a description, and the change to an equal node of a copy."""
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield f"{type(operator).__name__} -> {other.__name__}", _set_item("ops", at, other)
    elif isinstance(node, ast.BoolOp):
        other_bool = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield f"{type(node.op).__name__} -> {other_bool.__name__}", _set("op", other_bool)
        for at in range(len(node.values)):
            yield f"without operand {at}", _drop("values", at)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield f"{type(node.op).__name__} -> {OPERATORS[type(node.op)].__name__}", _set("op", OPERATORS[type(node.op)])
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        for value in (True, False):
            if not (isinstance(node, ast.While) and value):
                yield f"condition {value}", _set("test", lambda value=value: ast.Constant(value))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "without not", _unwrap_not
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield f"{node.value} -> {node.value + 1}", _set("value", lambda value=node.value: value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{node.value} -> {not node.value}", _set("value", lambda value=node.value: not value)
    elif isinstance(node, ast.Constant) and type(node.value) is bytes:
        yield f"{node.value!r} and a byte", _set("value", lambda value=node.value: value + b"!")
    elif isinstance(node, ast.Name) and node.id in NAMES:
        yield f"{node.id} -> {NAMES[node.id]}", _set("id", lambda name=node.id: NAMES[name])


def _set(field: str, make: Callable[[], object]) -> Change:
    return lambda node: setattr(node, field, make())


def _set_item(field: str, at: int, make: Callable[[], object]) -> Change:
    return lambda node: getattr(node, field).__setitem__(at, make())


def _drop(field: str, at: int) -> Change:
    return lambda node: getattr(node, field).pop(at)


def _unwrap_not(node: ast.AST) -> None:
    node.op = ast.Not()  # type: ignore[attr-defined]
    node.operand = ast.UnaryOp(ast.Not(), node.operand)  # type: ignore[attr-defined]


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, description and source text of each mutant."""
    tree = ast.parse(source)
    decorations = {
        id(inner)
        for node in ast.walk(tree)
        for decorator in getattr(node, "decorator_list", ())
        for inner in ast.walk(decorator)
    }
    for at, node in enumerate(ast.walk(tree)):
        if id(node) in decorations:
            continue
        for description, change in changes(node):
            other = copy.deepcopy(tree)
            change(next(found for index, found in enumerate(ast.walk(other)) if index == at))
            yield getattr(node, "lineno", 0), description, ast.unparse(ast.fix_missing_locations(other))


def passes(sources: Path, arguments: list[str]) -> bool:
    """Whether the tests pass on `sources`, in a forked process that has no module of ours yet."""
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS_PER_MUTANT)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.path.insert(0, str(sources))
        sys.dont_write_bytecode = True
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments])))
    _, status = os.waitpid(child, 0)
    return status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+", help="arguments for pytest")
    parser.add_argument("--lines", default="", help="FIRST-LAST: only mutants of these lines")
    options, more = parser.parse_known_args()
    first, _, last = options.lines.partition("-")
    arguments = [*options.tests, *more]
    import cryptography.x509  # loaded once, before the forks  # noqa: F401
    import pytest  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "src"
        shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("__pycache__"))
        target = sources / options.module.resolve().relative_to(SOURCES)
        source = target.read_text()
        if not passes(sources, arguments):
            print("the tests do not pass without a change")
            return 2
        total, survived = 0, []
        for line, description, text in mutants(source):
            if first and not int(first) <= line <= int(last or first):
                continue
            target.write_text(text)
            total += 1
            if passes(sources, arguments):
                survived.append((line, description))
                print(f"{options.module}:{line}: survived: {description}", flush=True)
    print(f"{total} mutants, {len(survived)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
