"""What must change no hash: other versions of Python, hash seeds, CPU features, locales."""

import os
import subprocess

from tests.conftest import REPOSITORY

NO_VECTORS = {
    # OpenSSL without SHA, AES, AVX, BMI and ADX instructions; NumPy without what it would choose at run time.
    "OPENSSL_ia32cap": "~0x1200020010000000:~0x202c0128",
    "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F",
}
ENVIRONMENTS = {
    "hash seed 1": {"PYTHONHASHSEED": "1"},
    "hash seed 4242": {"PYTHONHASHSEED": "4242"},
    "random hash seed": {"PYTHONHASHSEED": "random"},
    "optimised": {"PYTHONOPTIMIZE": "1"},
    "no vector instructions": NO_VECTORS,
    "another locale and zone": {"LC_ALL": "tr_TR.UTF-8", "TZ": "Pacific/Kiritimati", "PYTHONUTF8": "0"},
}


def other_pythons(module: str) -> list[str]:
    """Interpreters that can import `module`: of AVOW_E2E_PYTHONS (paths), or build/e2e/py3.*, which `make e2e-pythons` makes."""
    named = os.environ.get("AVOW_E2E_PYTHONS")
    found = [str(path) for path in sorted(REPOSITORY.glob("build/e2e/py3*/bin/python"))]
    return [python for python in (named.split(os.pathsep) if named else found) if _imports(python, module)]


def _imports(python: str, module: str) -> bool:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "src")}
    done = subprocess.run([python, "-c", f"import {module}"], env=environment, capture_output=True, check=False)
    return done.returncode == 0
