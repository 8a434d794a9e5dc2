"""Starting what is measured, on a core of its own, and reading how much CPU time it used."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parents[2]
MEASURED_CORE = {0}
OTHER_CORES = set(range(os.cpu_count() or 1)) - MEASURED_CORE or {0}


@contextmanager
def process(
    command: list[str], *, cores: set[int], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """A child process pinned to `cores`; its output goes to `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
        os.sched_setaffinity(child.pid, cores)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def ready_url(child: subprocess.Popen, log: Path, timeout_s: float = 30) -> str:
    """The URL after "ready" in the child's output."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and child.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("ready "):
                return line.split()[1]
        time.sleep(0.02)
    raise RuntimeError(f"not ready: {log.read_text(errors='replace')[-2000:]}")


def wait_for(url: str, child: subprocess.Popen, timeout_s: float = 120) -> None:
    """Until `url` answers with success."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and child.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children, all threads, from the scheduler's own count (proc(5), schedstat)."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
        for child in (task / "children").read_text().split():
            total += cpu_s(int(child))
    return total


def resident_mb(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0
