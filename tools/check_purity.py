"""The deterministic core may not reach for the outside world: a lint over the syntax trees.

In `chain/` (without its stores), `receipt/`, `exact/` (without kernels and compiler) and every `verify.py` of a method: no clock,
randomness, operating system, sockets, threads or floats, and no text of an exception in data. Time and entropy come in as parameters.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "src" / "avow"
FORBIDDEN = {
    "asyncio", "concurrent", "datetime", "locale", "multiprocessing", "os", "pickle", "platform", "random", "secrets",
    "select", "socket", "subprocess", "tempfile", "threading", "time", "uuid",
}  # fmt: skip
STORES = {"chain/state/sqlite.py", "chain/state/sqlite_store.py", "exact/files.py"}
"""Files of the core that touch the disk, behind the store's interface."""
SIDES = ("exact/kernels/", "exact/compile/")
"""Folders beside the core that a node or an author needs: fast, approximate or both, and held to the core by tests."""


def core() -> Iterator[Path]:
    for folder in ("chain", "receipt", "exact"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in STORES and not name.startswith(SIDES):
                yield path
    yield ROOT / "methods" / "checks.py"
    yield ROOT / "methods" / "registration.py"
    yield from sorted((ROOT / "methods").glob("*/verify.py"))
    yield from (ROOT / "methods" / "tee" / name for name in ("certificates.py", "document.py", "receipt.py"))


def faults(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FORBIDDEN:
                    yield node.lineno, f"imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            yield node.lineno, f"imports from {node.module}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield node.lineno, f"float {node.value}"
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("float", "hash", "open")
        ):
            yield node.lineno, f"calls {node.func.id}()"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield node.lineno, "true division makes floats"


def main() -> int:
    found = [(path, line, what) for path in core() for line, what in faults(path)]
    for path, line, what in found:
        print(f"{path.relative_to(ROOT.parent.parent)}:{line}: {what}")
    print(f"purity: {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
