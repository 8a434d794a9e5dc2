"""The node's process with the stub engine inside: for benchmarks and process tests."""

from avow.nodes.inference import main
from benchmarks.stub_engine import programs

if __name__ == "__main__":
    main(programs())
