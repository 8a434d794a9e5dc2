"""What a trace adds to the real exact programs: beside the plain run, beside its SHA-256 blocks alone, and beside a node's whole call.

    python -m benchmarks.exact_traces [--models mlp,lenet,risk,magika,cls,rec,silero | all] [FILE.exact …]

Language programs are in benchmarks.exact_language. Inputs are random: values do not change the time of a run. A program of sequences is
shown for one step and for LONG.
"""

from benchmarks.exact_pair import traced
from benchmarks.report import Benchmark, main
from benchmarks.support.exact_models import programs

MODELS = ("mlp", "lenet", "risk", "magika", "cls", "rec", "silero")
LONG = 32


def run() -> Benchmark:
    benchmark = Benchmark("exact-traces", "What a trace adds to exact programs (least CPU time of a call)")
    for program in programs(MODELS):
        for steps in (1, LONG) if program.mode == "sequence" else (1,):
            traced(benchmark, program, steps)
    return benchmark


if __name__ == "__main__":
    main(run)
