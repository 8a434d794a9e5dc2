"""One chain of mixed transactions gives the same hashes whatever executes it.

AVOW_E2E_BLOCKS sets how long it is (10,000 in the long form). Other versions of Python are those of AVOW_E2E_PYTHONS (paths, separated by
the system's path separator), or the virtual environments build/e2e/py3.*, with the chain's dependencies in them.
"""

import json
import os
import subprocess
import sys

import pytest

from avow.chain.errors import Code
from tests.conftest import REPOSITORY
from tests.e2e import blocks

COUNT = int(os.environ.get("AVOW_E2E_BLOCKS", "250"))
NO_VECTORS = {
    # OpenSSL without SHA, AES, AVX, BMI and ADX instructions; NumPy without what it would choose at run time.
    "OPENSSL_ia32cap": "~0x1200020010000000:~0x202c0128",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F",
}
CIRCUMSTANCES = {
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 4242": {"PYTHONHASHSEED": "4242"},
    "random hash seed": {"PYTHONHASHSEED": "random"},
    "optimised": {"PYTHONOPTIMIZE": "1"},
    "no vector instructions": NO_VECTORS,
    "another locale and zone": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONUTF8": "0"},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    codes = blocks.write(folder / "blocks", folder, blocks=COUNT, seed=1)
    assert {Code.OK, Code.REVERTED, Code.OUT_OF_GAS} <= set(codes), codes
    return folder / "blocks"


@pytest.fixture(scope="module")
def plain(chain):
    return replay(chain)


def replay(chain, environment=None, python=sys.executable, *options):
    given = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHASHSEED")}
    given["PYTHONPATH"] = f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"
    done = subprocess.run(
        [python, "-m", "tests.e2e.replay", str(chain), *options],
        capture_output=True,
        text=True,
        env=given | (environment or {}),
        cwd=REPOSITORY,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_circumstances_change_no_hash(chain, plain, name):
    found = replay(chain, CIRCUMSTANCES[name])
    assert (found["blocks"], found["digest"]) == (plain["blocks"], plain["digest"])
    assert found["blocks"] >= COUNT


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_store_on_disk_changes_no_hash(chain, plain):
    assert replay(chain, None, sys.executable, "--disk")["digest"] == plain["digest"]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_another_version_of_python_changes_no_hash(chain, plain):
    named = os.environ.get("AVOW_E2E_PYTHONS")
    found = (
        named.split(os.pathsep)
        if named
        else [str(path) for path in sorted(REPOSITORY.glob("build/e2e/py3*/bin/python"))]
    )
    own = ".".join(str(part) for part in sys.version_info[:2])
    seen = {}
    for python in found:
        result = replay(chain, {"PYTHONHASHSEED": "random"}, python)
        assert result["digest"] == plain["digest"], result
        seen[".".join(result["python"].split(".")[:2])] = result
    if not set(seen) - {own}:
        pytest.skip("no other version of Python with the chain's dependencies: see tests/e2e/README.md")
