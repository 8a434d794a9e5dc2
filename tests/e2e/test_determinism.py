"""One chain of mixed transactions gives the same hashes whatever executes it.

AVOW_E2E_BLOCKS sets how long it is (10,000 in the long form).
"""

import json
import os
import subprocess
import sys

import pytest

from avow.chain.errors import Code
from tests.conftest import REPOSITORY
from tests.e2e import blocks
from tests.e2e.circumstances import ENVIRONMENTS, other_pythons

COUNT = int(os.environ.get("AVOW_E2E_BLOCKS", "250"))


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
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_circumstances_change_no_hash(chain, plain, name):
    found = replay(chain, ENVIRONMENTS[name])
    assert (found["blocks"], found["digest"]) == (plain["blocks"], plain["digest"])
    assert found["blocks"] >= COUNT


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_a_store_on_disk_changes_no_hash(chain, plain):
    assert replay(chain, None, sys.executable, "--disk")["digest"] == plain["digest"]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_another_version_of_python_changes_no_hash(chain, plain):
    own = ".".join(str(part) for part in sys.version_info[:2])
    seen = {}
    for python in other_pythons("avow.chain.application"):
        result = replay(chain, {"PYTHONHASHSEED": "random"}, python)
        assert result["digest"] == plain["digest"], result
        seen[".".join(result["python"].split(".")[:2])] = result
    if not set(seen) - {own}:
        pytest.skip("no other version of Python with the chain's dependencies: `make e2e-pythons` makes them")
