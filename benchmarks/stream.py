"""Streams through the gateway alone: what one more chunk costs, authenticated or not, at once or in a trickle.

The cost of a chunk is the difference between streams of 1,100 and of 100 chunks, by 1,000: what a stream costs once (its head,
its receipt) is a figure of its own. Beside it LiteLLM's proxy on the same chunks, without authentication, in the same run.
At once means as fast as they come; in a trickle one every two milliseconds, each alone on the wire.
"""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from avow.receipt.encoding import base64url
from benchmarks.gateway import Load, Peer, install_peer, litellm, measure, our_gateway
from benchmarks.report import Benchmark, main
from benchmarks.support.processes import OTHER_CORES
from benchmarks.support.stub_node import LONG, SHORT
from tests.simulator import Simulator, point

CHUNK_BAR_US = 5
PEER_BAR = 100
TRICKLE = "every 2 ms"


def body(wish: str) -> bytes:
    return b'{"model":"echo","stream":true,"messages":[{"role":"user","content":"%s"}]}' % wish.encode()


def loads(peer: Peer, counts: tuple[int, int], headers: dict[str, str]) -> list[Load]:
    lengths = zip((SHORT, LONG), counts, strict=True)
    return [Load(peer, body(f"{length} chunks"), count, 1, headers) for length, count in lengths]


def run() -> Benchmark:
    os.sched_setaffinity(0, OTHER_CORES)
    benchmark = Benchmark("stream", "One streamed chunk through the gateway alone (CPU of the gateway process)")
    key = {"avow-client-key": base64url(point(Simulator().private_key("client")))}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(our_gateway(folder))
        peer = stack.enter_context(litellm(folder)) if install_peer() else None
        wanted = [*loads(ours, (300, 60), {}), *loads(ours, (300, 60), key), *(loads(peer, (6, 2), {}) if peer else [])]
        found = [one.cpu_us for one in measure(wanted)]
        per_chunk = [(long - short) / (LONG - SHORT) for short, long in zip(found[::2], found[1::2], strict=True)]
        theirs = per_chunk[2] if peer else None
        for label, place in (("plain", 0), ("authenticated", 1)):
            cost = per_chunk[place]
            benchmark.add(f"{label} chunk, at once", cost, "us", bar=CHUNK_BAR_US)
            benchmark.add(f"{label}: a stream of {SHORT} chunks, with its receipt", found[2 * place], "us")
            if peer and theirs:
                ratio = theirs / cost
                figure = f"{label}: CPU of the peer / ours"
                benchmark.add(figure, ratio, "x", bar=PEER_BAR, lower=False, peer=peer.name, ratio=ratio)
        if peer and theirs:
            benchmark.add(f"{peer.name}: chunk, at once", theirs, "us")
            benchmark.add(f"{peer.name}: a stream of {SHORT} chunks", found[4], "us")
        paced = [Load(ours, body(TRICKLE), 4, 1, key)]
        if peer:
            paced.append(Load(peer, body(TRICKLE), 4, 1))
        slow = [one.cpu_us / SHORT for one in measure(paced)]
        ratio = slow[1] / slow[0] if peer else None
        against = peer.name if peer else None
        benchmark.add(f"authenticated chunk, {TRICKLE}", slow[0], "us", peer=against, ratio=ratio)
    return benchmark


if __name__ == "__main__":
    main(run)
