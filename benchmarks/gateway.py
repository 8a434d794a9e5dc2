"""The gateway alone: what an answer with its receipt costs in front of a stub node.

Beside it, in the same run: LiteLLM's proxy in front of a stub upstream (the peer), and uvicorn that answers from memory (the
floor: what any answer over HTTP costs here). Each runs on one core, stubs and load on the others; rounds alternate. CPU time
is the proxy process's own.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import Benchmark, main, percentile
from benchmarks.support import load
from benchmarks.support.processes import (
    MEASURED_CORE,
    OTHER_CORES,
    REPOSITORY,
    cpu_s,
    process,
    ready_url,
    resident_mb,
    wait_for,
)

LITELLM = "litellm[proxy]==1.106.2"
VENV = REPOSITORY / "build" / "litellm"
ROUNDS = 5
BODY = b'{"model":"echo","messages":[{"role":"user","content":"What is the capital of France? Answer in one word."}]%s}'
WHOLE = BODY % b""


@dataclass
class Peer:
    name: str
    url: str
    pid: int
    headers: dict[str, str]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def our_gateway(folder: Path) -> Iterator[Peer]:
    """The gateway, by the entry that the supervisor starts, in front of the stub node."""
    address = f"unix:{folder}/node.sock"
    python = sys.executable
    with ExitStack() as stack:
        log = folder / "node.log"
        stub = stack.enter_context(
            process([python, "-m", "benchmarks.support.stub_node", address], cores=OTHER_CORES, log=log)
        )
        ready_url(stub, log)
        log = folder / "gateway.log"
        command = [python, "-m", "avow.nodes.gateway", "--home", str(folder), "--node", address, "--port", "0"]
        child = stack.enter_context(process([*command, "--method", "tee"], cores=MEASURED_CORE, log=log))
        url = ready_url(child, log)
        wait_for(f"{url}/health", child)
        yield Peer("avow gateway", url, child.pid, {})


def install_peer() -> bool:
    """LiteLLM in a virtual environment of its own; False where it cannot be had."""
    if not (VENV / "bin" / "litellm").exists():
        print("installing the peer into build/ (once)", file=sys.stderr)
        made = subprocess.run([sys.executable, "-m", "venv", VENV], check=False)
        pip = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", LITELLM]
        return made.returncode == 0 and subprocess.run(pip, check=False).returncode == 0
    return True


@contextmanager
def litellm(folder: Path) -> Iterator[Peer]:
    """LiteLLM's proxy, one worker, in front of the stub upstream."""
    upstream, port = free_port(), free_port()
    settings = folder / "litellm.yaml"
    settings.write_text(
        f"""model_list:
  - model_name: echo
    litellm_params:
      model: openai/echo
      api_base: http://127.0.0.1:{upstream}/v1
      api_key: none
general_settings:
  dangerously_permit_weak_or_unset_master_key: true
"""
    )
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR"}
    with ExitStack() as stack:
        stub = stack.enter_context(
            process(
                [sys.executable, "-m", "benchmarks.support.stub_openai", str(upstream)],
                cores=OTHER_CORES,
                log=folder / "upstream.log",
            )
        )
        wait_for(f"http://127.0.0.1:{upstream}/", stub)
        command = [str(VENV / "bin" / "litellm"), "--config", str(settings), "--host", "127.0.0.1", "--port", str(port)]
        child = stack.enter_context(
            process(
                [*command, "--num_workers", "1"],
                cores=MEASURED_CORE,
                log=folder / "litellm.log",
                environment=environment,
            )
        )
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health/liveliness", child)
        yield Peer("LiteLLM proxy", url, child.pid, {"authorization": "Bearer none"})


@contextmanager
def floor(folder: Path) -> Iterator[Peer]:
    """Uvicorn on the measured core, answering from memory."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.support.stub_openai", str(port)]
    with process(command, cores=MEASURED_CORE, log=folder / "floor.log") as child:
        wait_for(f"http://127.0.0.1:{port}/", child)
        yield Peer("uvicorn from memory", f"http://127.0.0.1:{port}", child.pid, {})


@dataclass
class Measured:
    """Medians over rounds, per request."""

    cpu_us: float
    p50_ms: float
    p99_ms: float
    wall_us: float


@dataclass(frozen=True)
class Load:
    """What is asked of one proxy in one round."""

    peer: Peer
    body: bytes
    count: int
    clients: int
    headers: dict[str, str] = field(default_factory=dict)


def measure(loads: list[Load], rounds: int = ROUNDS) -> list[Measured]:
    """Each load once per round, one after the other, after a warm-up of all."""
    requests = [load.request(item.peer.url, item.body, item.peer.headers | item.headers) for item in loads]
    for item, request in zip(loads, requests, strict=True):
        load.run(item.peer.url, request, count=max(item.clients, item.count // 2), clients=item.clients)
    cpu: list[list[float]] = [[] for _ in loads]
    wall: list[list[float]] = [[] for _ in loads]
    latencies: list[list[float]] = [[] for _ in loads]
    for _ in range(rounds):
        for place, (item, request) in enumerate(zip(loads, requests, strict=True)):
            before = cpu_s(item.peer.pid)
            times, seconds, _ = load.run(item.peer.url, request, count=item.count, clients=item.clients)
            cpu[place].append((cpu_s(item.peer.pid) - before) / len(times) * 1e6)
            wall[place].append(seconds / len(times) * 1e6)
            latencies[place].extend(times)
    return [
        Measured(
            statistics.median(cpu[place]),
            percentile(latencies[place], 0.5) * 1e3,
            percentile(latencies[place], 0.99) * 1e3,
            statistics.median(wall[place]),
        )
        for place in range(len(loads))
    ]


CPU_BAR_US = 250
PEER_BAR = 20
CASES = ((1, 1500, 40), (16, 3200, 64))
"""Callers at once, requests of ours per round, requests of the peer's."""


def run() -> Benchmark:
    os.sched_setaffinity(0, OTHER_CORES)
    benchmark = Benchmark("gateway", "The gateway alone: an answer with its receipt (CPU of the gateway process)")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(our_gateway(folder))
        least = stack.enter_context(floor(folder))
        peer = stack.enter_context(litellm(folder)) if install_peer() else None
        for clients, count, peer_count in CASES:
            loads = [Load(ours, WHOLE, count, clients), Load(least, WHOLE, count, clients)]
            if peer:
                loads.append(Load(peer, WHOLE, peer_count, clients))
            mine, bare, *theirs = measure(loads)
            case = f"c={clients}"
            benchmark.add(f"{case}: {least.name}, CPU", bare.cpu_us, "us")
            benchmark.add(
                f"{case}: CPU", mine.cpu_us, "us", bar=CPU_BAR_US, peer=least.name, ratio=mine.cpu_us / bare.cpu_us
            )
            benchmark.add(f"{case}: wall", mine.wall_us, "us")
            benchmark.add(f"{case}: p50", mine.p50_ms, "ms", peer=least.name, ratio=mine.p50_ms / bare.p50_ms)
            benchmark.add(f"{case}: p99", mine.p99_ms, "ms")
            if peer:
                [other] = theirs
                ratio = other.cpu_us / mine.cpu_us
                benchmark.add(f"{case}: {peer.name}, CPU", other.cpu_us, "us")
                benchmark.add(f"{case}: {peer.name}, p50", other.p50_ms, "ms")
                benchmark.add(
                    f"{case}: CPU of the peer / ours",
                    ratio,
                    "x",
                    bar=PEER_BAR,
                    lower=False,
                    peer=peer.name,
                    ratio=ratio,
                )
        benchmark.add("resident memory", resident_mb(ours.pid), "MB")
        if peer:
            benchmark.add(f"resident memory, {peer.name}", resident_mb(peer.pid), "MB")
    return benchmark


if __name__ == "__main__":
    main(run)
