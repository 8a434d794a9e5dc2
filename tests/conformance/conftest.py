"""A whole network of processes with a real model, for clients that others wrote."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL_CACHE = REPOSITORY / "build" / "model-cache"
START_S = 240


@dataclass(frozen=True)
class RunningNetwork:
    url: str
    home: Path
    chat_model: str = "smollm2-135m-instruct"
    classifier: str = "magika"


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """`avow up` in a home of its own; models come from the store that all test runs share."""
    home = tmp_path_factory.mktemp("network")
    log = home / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "avow.nodes.up", "--home", str(home / "home"), "--port", "0"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"AVOW_MODELS": str(MODEL_CACHE)},
        )
        try:
            yield RunningNetwork(_ready(process, log), home / "home")
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process, log):
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        found = re.search(r"^ready (\S+)$", log.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the network did not come up: {log.read_text(errors='replace')[-3000:]}")
