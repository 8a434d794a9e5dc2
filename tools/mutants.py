"""Mutants of the verifiers: each comparison turned, each guard dropped, one at a time. A mutant that the tests let live is their bug.

    python tools/mutants.py [--jobs N] [FILE …]        files relative to src/avow; all verifiers by default

Each mutant is a copy of the package in a temporary folder with one change, judged by the tests named beside the file. Prints the survivors.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECEIPT = [
    f"tests/receipt/test_{name}.py"
    for name in ("vectors", "verify", "statement", "commitment", "requester", "light", "merkle", "encoding")
]
FILES: dict[str, list[str]] = {
    "receipt/verify.py": RECEIPT,
    "methods/checks.py": RECEIPT,
    "receipt/evidence.py": RECEIPT,
    "receipt/standing.py": RECEIPT,
    "receipt/trust.py": RECEIPT,
    "receipt/statement.py": RECEIPT,
    "receipt/commitment.py": RECEIPT,
    "receipt/encoding.py": RECEIPT,
    "receipt/merkle.py": RECEIPT,
    "receipt/light.py": RECEIPT,
    "receipt/requester.py": RECEIPT,
    "methods/tee/verify.py": ["tests/methods"],
    "methods/tee/certificates.py": ["tests/methods"],
    "methods/tee/document.py": ["tests/methods"],
}
TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, description and source of each mutant."""
    count = sum(1 for _ in ast.walk(ast.parse(source)))
    for target in range(count):
        tree = ast.parse(source)
        node = next(node for index, node in enumerate(ast.walk(tree)) if index == target)
        change = turn(node)
        if change:
            yield getattr(node, "lineno", 0), change, ast.unparse(tree)


def turn(node: ast.AST) -> str | None:
    """Change one node in place, and say how."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
        before = type(node.ops[0]).__name__
        node.ops[0] = TURNED[type(node.ops[0])]()
        return f"{before} -> {type(node.ops[0]).__name__}"
    if isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return f"-> {type(node.op).__name__}"
    if isinstance(node, ast.If) and isinstance(node.body[-1], (ast.Raise, ast.Return)):
        node.test = ast.Constant(value=False)
        return "guard dropped"
    return None


def survives(file: str, source: str, tests: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src" / "avow", Path(folder) / "avow", ignore=shutil.ignore_patterns("__pycache__"))
        (Path(folder) / "avow" / file).write_text(source, encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow and not network and not model",
            *tests,
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_MAX_EXAMPLES": "20",
        }
        try:
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=300, check=False)
        except subprocess.TimeoutExpired:
            return False
        return run.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    alive = total = 0
    for file in options.files or FILES:
        source = (ROOT / "src" / "avow" / file).read_text(encoding="utf-8")
        found = list(mutants(source))
        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = list(pool.map(lambda mutant: survives(file, mutant[2], FILES[file]), found))  # noqa: B023
        for (line, change, _), lived in zip(found, verdicts, strict=True):
            if lived:
                print(f"{file}:{line}: survives: {change}", flush=True)
        alive += sum(verdicts)
        total += len(found)
        print(f"{file}: {len(found)} mutants, {sum(verdicts)} alive", flush=True)
    print(f"{total} mutants, {alive} alive")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
