"""`python -m tests.e2e.other_python`: a validator's process that runs under the circumstances which HOME/circumstances.json names.

{"python": "/path/to/another/python", "environment": {"PYTHONHASHSEED": "random"}}: the process becomes that interpreter, with its id.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

FILE = "circumstances.json"


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--home", type=Path, required=True)
    found = json.loads((parser.parse_known_args()[0].home / FILE).read_bytes())
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")} | found["environment"]
    python = found["python"]
    os.execve(python, [python, "-m", "avow.nodes.full", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
