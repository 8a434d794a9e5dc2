"""How every benchmark speaks: a table for people, one JSON object for programs, the machine beside the figures.

Figures are medians. A bar is what must hold; `ratio` relates a figure to its floor or peer of the same run, since the machine is shared.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "build" / "bench"


def machine() -> str:
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


@dataclass
class Benchmark:
    """Collects figures and prints them. `bar` with `lower` true is a maximum, else a minimum."""

    name: str
    title: str
    figures: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        bar: float | None = None,
        lower: bool = True,
        peer: str | None = None,
        ratio: float | None = None,
    ) -> None:
        holds = None if bar is None else (value <= bar if lower else value >= bar)
        shown = None if bar is None else f"{'<=' if lower else '>='} {bar:g} {unit}"
        rounded = float(f"{value:.4g}")
        self.figures.append(
            {
                "name": name,
                "value": rounded,
                "unit": unit,
                "bar": shown,
                "holds": holds,
                "peer": peer,
                "ratio": None if ratio is None else float(f"{ratio:.3g}"),
            }
        )

    def finish(self) -> int:
        """Print, write under build/bench, and return the exit code: 0 unless a bar is missed."""
        result = {"name": self.name, "machine": machine(), "figures": self.figures}
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / f"{self.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if arguments().json:
            print(json.dumps(result))
        else:
            self._table()
        return 0 if all(figure["holds"] is not False for figure in self.figures) else 1

    def _table(self) -> None:
        print(f"\n{self.title}\n{machine()}")
        rows = [("figure", "value", "bar", "", "against", "ratio")]
        for figure in self.figures:
            mark = {True: "holds", False: "MISSED", None: ""}[figure["holds"]]
            ratio = "" if figure["ratio"] is None else f"{figure['ratio']:g}x"
            rows.append(
                (
                    figure["name"],
                    f"{figure['value']:g} {figure['unit']}",
                    figure["bar"] or "",
                    mark,
                    figure["peer"] or "",
                    ratio,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    known, _ = parser.parse_known_args()
    return known


def cpu_us(work: Callable[[], object], *, rounds: int = 7, calls: int = 200) -> float:
    """Median CPU microseconds of one call, over `rounds` of `calls`."""
    work()
    found = []
    for _ in range(rounds):
        start = time.process_time_ns()
        for _ in range(calls):
            work()
        found.append((time.process_time_ns() - start) / calls / 1000)
    return statistics.median(found)


def process_cpu_s(pid: int) -> float:
    """CPU seconds, user and system, that a process has used, its threads included (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main(run: Callable[[], Benchmark]) -> None:
    sys.exit(run().finish())
