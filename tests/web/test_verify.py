"""The browser's verifier: its own tests, against our vectors and in a real Chromium, and the copy that the gateway serves."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "web" / "verify"
SERVED = ROOT / "src" / "avow" / "nodes" / "gateway" / "pages" / "avow-verify.js"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("web"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on PATH to build the browser's verifier with"),
]


def run(*command):
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4_000:] + done.stderr[-4_000:]
    return done.stdout


@pytest.fixture(scope="module")
def package():
    run("npm", "ci", "--ignore-scripts")


def test_types_and_vectors_hold(package, tmp_path):
    run("npx", "tsc", "--noEmit")
    run("node", "build.mjs", str(tmp_path))
    assert (tmp_path / SERVED.name).read_bytes() == SERVED.read_bytes(), "`make web` renews the gateway's copy"
    shown = run("node", "--test", "test/")
    assert "# fail 0" in shown
