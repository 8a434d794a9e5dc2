"""What the bits of an answer depend on besides the program: the engine's build and the machine's instruction set."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
from pathlib import Path

_RELEVANT = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)


def package_version(package: str) -> str:
    return importlib.metadata.version(package)


@functools.cache
def runtime_id(module: str, pattern: str) -> str:
    """`system-machine/instruction sets/first 64 bits of the SHA-256 of the library's code`, e.g. linux-x86_64/avx2+fma/…."""
    system = f"{platform.system().lower()}-{platform.machine().lower()}"
    return f"{system}/{'+'.join(_instruction_sets()) or 'base'}/{_code_digest(module, pattern)[:16]}"


def _instruction_sets() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            present = set(value.split())
            return [flag for flag in _RELEVANT if flag in present]
    return []


def _code_digest(module: str, pattern: str) -> str:
    found = importlib.util.find_spec(module)
    digest = hashlib.sha256()
    for folder in (found.submodule_search_locations if found else None) or []:
        for path in sorted(Path(folder).glob(pattern)):
            with path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
