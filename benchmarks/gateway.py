"""The gateway alone: what an answer with its receipt costs in front of a stub node, beside LiteLLM's proxy in front of a stub upstream.

Both proxies run on one core, stubs and load on the others; rounds alternate. CPU time is the proxy process's own.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
CHUNKS = 100
BODY = b'{"model":"echo","messages":[{"role":"user","content":"What is the capital of France? Answer in one word."}]%s}'
WHOLE = BODY % b""
STREAM = BODY % b',"stream":true'


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


@dataclass
class Measured:
    """Medians over rounds, per request."""

    cpu_us: float
    p50_ms: float
    p99_ms: float
    wall_us: float


def measure(
    peer: Peer, body: bytes, *, count: int, clients: int, rounds: int = ROUNDS, headers: dict[str, str] | None = None
) -> Measured:
    data = load.request(peer.url, body, peer.headers | (headers or {}))
    load.run(peer.url, data, count=max(clients, count // 4), clients=clients)  # warm-up
    cpu, wall, latencies = [], [], []
    for _ in range(rounds):
        before = cpu_s(peer.pid)
        times, seconds, _ = load.run(peer.url, data, count=count, clients=clients)
        cpu.append((cpu_s(peer.pid) - before) / len(times) * 1e6)
        wall.append(seconds / len(times) * 1e6)
        latencies.extend(times)
    return Measured(
        statistics.median(cpu),
        percentile(latencies, 0.5) * 1e3,
        percentile(latencies, 0.99) * 1e3,
        statistics.median(wall),
    )


CASES = (
    # name, body, concurrency, requests of ours per round, of the peer's, CPU bar in µs, least ratio
    ("JSON with receipt, c=1", WHOLE, 1, 1500, 60, 250, 20),
    ("JSON with receipt, c=16", WHOLE, 16, 3200, 96, 250, 20),
    (f"stream of {CHUNKS} chunks, c=1", STREAM, 1, 400, 12, 5 * CHUNKS, 100),
    (f"stream of {CHUNKS} chunks, c=16", STREAM, 16, 800, 16, 5 * CHUNKS, 100),
)


def run() -> Benchmark:
    os.sched_setaffinity(0, OTHER_CORES)
    benchmark = Benchmark("gateway", "The gateway alone (CPU of the gateway process; stubs and load on another core)")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(our_gateway(folder))
        peer = stack.enter_context(litellm(folder)) if install_peer() else None
        for case, body, clients, count, peer_count, bar, least in CASES:
            mine = measure(ours, body, count=count, clients=clients)
            theirs = measure(peer, body, count=peer_count, clients=clients, rounds=3) if peer else None
            ratio = theirs.cpu_us / mine.cpu_us if theirs else None
            benchmark.add(f"{case}: CPU", mine.cpu_us, "us", bar=bar)
            benchmark.add(f"{case}: wall", mine.wall_us, "us")
            benchmark.add(f"{case}: p50", mine.p50_ms, "ms")
            benchmark.add(f"{case}: p99", mine.p99_ms, "ms")
            if theirs and ratio:
                benchmark.add(f"{case}: {peer.name}, CPU", theirs.cpu_us, "us")
                benchmark.add(f"{case}: {peer.name}, p50", theirs.p50_ms, "ms")
                benchmark.add(
                    f"{case}: CPU, {peer.name} / ours", ratio, "x", bar=least, lower=False, peer=peer.name, ratio=ratio
                )
        benchmark.add("resident memory", resident_mb(ours.pid), "MB")
        if peer:
            benchmark.add(f"resident memory, {peer.name}", resident_mb(peer.pid), "MB")
    return benchmark


if __name__ == "__main__":
    main(run)
