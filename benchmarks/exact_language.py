"""SmolLM2-135M-Instruct as an exact program: decode and prefill beside llama.cpp, a trace's cost, perplexity beside the float model's.

`--perplexity N` measures N windows of 1,024 tokens (20 for the bar's 20,000 tokens; minutes of work). The text is what CPython
documents its language with, or `--text FILE`; the calibration text is another one.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

from avow.engines import load
from avow.engines.exact import load_program
from avow.engines.exact_text import chat_tokens
from avow.exact.compile.gguf_model import read_model
from avow.exact.compile.quality import cut, measure
from avow.exact.kernels.language_machine import LanguageMachine
from avow.exact.kernels.tracer import BulkTracer
from avow.exact.specification.cells import Parameters
from avow.exact.tokeniser import MAX_FILE, Tokeniser
from avow.models import catalogue
from avow.models.store import Store
from benchmarks.report import Benchmark, main

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "model-cache"
NAME = "smollm2-135m-instruct-exact"
PROMPT_TOKENS = 128
DECODED = 64
ROUNDS = 5
SEED = bytes(32)
SAMPLING = Parameters(temperature_m=20_480, temperature_s=14, seed=1)


def text_of(path: str | None) -> str:
    if path is not None:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def cpu_s(work: Callable[[], object]) -> float:
    """CPU seconds of all threads of this process: "one core" on a machine that others use as well."""
    started = time.process_time()
    work()
    return time.process_time() - started


class Exact:
    """The exact program's two figures, plain or traced."""

    def __init__(self, machine: LanguageMachine, prompt: list[int], short: list[int]) -> None:
        self.machine = machine
        self.prompt = prompt
        self.short = short

    def run(self, tokens: list[int], steps: int, traced: bool) -> float:
        tracer = BulkTracer(SEED, self.machine.program.ranks) if traced else None
        return cpu_s(lambda: self.machine.run(tokens, SAMPLING, tracer=tracer, steps=steps))

    def prefill(self, traced: bool) -> float:
        return self.run(self.prompt, len(self.prompt), traced)

    def decode(self, traced: bool) -> float:
        first = len(self.short)
        return self.run(self.short, first + DECODED, traced) - self.run(self.short, first, traced)


class LlamaCpp:
    """llama.cpp on the GGUF that the program was compiled from, one thread."""

    def __init__(self, store: Store, prompt: list[int], short: list[int]) -> None:
        self.engine = load(store.get(catalogue.install(store, catalogue.DEFAULT_CHAT)), slots=1)
        self.prompt = prompt
        self.short = short

    def run(self, tokens: list[int], count: int) -> float:
        job = {"prompt": tokens, "n_predict": count, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        return cpu_s(lambda: self.engine._server.handle_completions(job))

    def prefill(self) -> float:
        return self.run(self.prompt, 1)

    def decode(self) -> float:
        return self.run(self.short, 1 + DECODED) - self.run(self.short, 1)


def speeds(bench: Benchmark, store: Store, machine: LanguageMachine, tokeniser: Tokeniser, text: str) -> None:
    prompt = tokeniser.encode(text)[:PROMPT_TOKENS]
    short = chat_tokens(tokeniser, [{"role": "user", "content": "Tell me about the sea."}])
    exact, peer = Exact(machine, prompt, short), LlamaCpp(store, prompt, short)
    works: dict[str, Callable[[], float]] = {
        "decode": lambda: exact.decode(False),
        "decode traced": lambda: exact.decode(True),
        "decode peer": peer.decode,
        "prefill": lambda: exact.prefill(False),
        "prefill traced": lambda: exact.prefill(True),
        "prefill peer": peer.prefill,
    }
    for work in works.values():
        work()
    # In turns, the quickest of each: programs are compared, not their neighbours on the machine.
    rounds = [[work() for work in works.values()] for _ in range(ROUNDS)]
    seconds = {name: min(found) for name, found in zip(works, zip(*rounds, strict=True), strict=True)}
    peer.engine.close()
    for name, tokens, bar in (("decode", DECODED, 50), ("prefill", PROMPT_TOKENS, 120)):
        speed, traced, other = (tokens / seconds[f"{name}{what}"] for what in ("", " traced", " peer"))
        about = name if name == "decode" else f"{name} of {tokens} tokens"
        unit = "tokens/CPU s"
        bench.add(about, speed, unit, bar=bar, lower=False, peer=f"llama.cpp, Q4_1: {other:.0f}", ratio=speed / other)
        bench.add(f"{about}, traced", traced, unit, peer=name, ratio=traced / speed)
        bench.add(f"what a trace adds to {name}", 100 * (speed / traced - 1), "%", bar=30 if name == "decode" else None)
    plain, traced = (seconds[f"prefill{what}"] + seconds[f"decode{what}"] for what in ("", " traced"))
    bench.add(f"what a trace adds to {PROMPT_TOKENS} tokens in, {DECODED} out", 100 * (traced / plain - 1), "%", bar=30)


def quality(
    bench: Benchmark, store: Store, machine: LanguageMachine, tokeniser: Tokeniser, text: str, count: int
) -> None:
    gguf = store.get(catalogue.install(store, catalogue.DEFAULT_CHAT))
    model = read_model(next(iter(gguf.paths.values())))
    found = measure(model, machine.program, cut(tokeniser.encode(text), 1_024, count))
    bench.add("tokens predicted", found.tokens, "tokens")
    bench.add("perplexity of the GGUF, in floats", found.float_perplexity, "")
    bench.add("perplexity of the exact program", found.exact_perplexity, "", peer="the GGUF's", ratio=1 + found.loss)
    bench.add("what exactness costs", 100 * found.loss, "%", bar=2)
    bench.add("same likeliest token", 100 * found.agreement, "%")


def run() -> Benchmark:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--perplexity", type=int, default=0, metavar="WINDOWS")
    arguments.add_argument("--text")
    chosen, rest = arguments.parse_known_args()
    sys.argv[1:] = rest
    bench = Benchmark("exact_language", "An exact language program: SmolLM2-135M-Instruct")
    store = Store(CACHE, directory=CACHE)
    stored = store.get(catalogue.install(store, NAME))
    machine = LanguageMachine(load_program(stored))
    tokeniser = Tokeniser.read(stored.read("tokeniser.cbor", limit=MAX_FILE))
    text = text_of(chosen.text)
    speeds(bench, store, machine, tokeniser, text)
    if chosen.perplexity:
        quality(bench, store, machine, tokeniser, text, chosen.perplexity)
    return bench


if __name__ == "__main__":
    main(run)
