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


def text_of(path: str | None) -> str:
    if path is not None:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the quickest round: the machine is shared, and what is compared are programs."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def llama_speeds(store: Store, prompt: str) -> tuple[float, float]:
    """llama.cpp's prefill and decode, tokens a second, by its own clock, on one thread."""
    engine = load(store.get(catalogue.install(store, catalogue.DEFAULT_CHAT)), slots=1)
    server = engine._server
    job = {"prompt": prompt, "n_predict": DECODED, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
    prefill, decode = 0.0, 0.0
    for _ in range(ROUNDS):
        timings = server.handle_completions(dict(job))["timings"]
        prefill, decode = max(prefill, timings["prompt_per_second"]), max(decode, timings["predicted_per_second"])
    engine.close()
    return prefill, decode


def speeds(bench: Benchmark, store: Store, machine: LanguageMachine, tokeniser: Tokeniser, text: str) -> None:
    tokens = tokeniser.encode(text)[:PROMPT_TOKENS]
    operators = len(machine.program.operators)
    short = chat_tokens(tokeniser, [{"role": "user", "content": "Tell me about the sea."}])
    parameters = Parameters(temperature_m=20_480, temperature_s=14, seed=1)

    def prefill(traced: bool) -> float:
        tracer = BulkTracer(SEED, operators) if traced else None
        return PROMPT_TOKENS / best(lambda: machine.run(tokens, parameters, tracer=tracer, steps=PROMPT_TOKENS))

    def decode(traced: bool) -> float:
        def run(steps: int) -> float:
            return best(
                lambda: machine.run(
                    short, parameters, tracer=BulkTracer(SEED, operators) if traced else None, steps=steps
                )
            )

        return DECODED / (run(len(short) + DECODED) - run(len(short)))

    prefill(False)
    decode(True)
    plain, traced = decode(False), decode(True)
    llama_prefill, llama_decode = llama_speeds(store, tokeniser.text(tokens).decode(errors="replace"))
    whole, whole_traced = prefill(False), prefill(True)
    bench.add(
        "decode",
        plain,
        "tokens/s",
        bar=50,
        lower=False,
        peer=f"llama.cpp Q4_1: {llama_decode:.0f}",
        ratio=plain / llama_decode,
    )
    bench.add(
        f"prefill of {PROMPT_TOKENS} tokens", whole, "tokens/s", bar=120, lower=False,
        peer=f"llama.cpp Q4_1: {llama_prefill:.0f}", ratio=whole / llama_prefill,
    )  # fmt: skip
    bench.add("decode, traced", traced, "tokens/s", peer="decode", ratio=traced / plain)
    bench.add("what a trace adds to decode", 100 * (plain / traced - 1), "%", bar=30)
    bench.add("prefill, traced", whole_traced, "tokens/s", peer="prefill", ratio=whole_traced / whole)
    bench.add("what a trace adds to prefill", 100 * (whole / whole_traced - 1), "%")


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
