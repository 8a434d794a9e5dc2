"""Measurements of a development enclave: what it runs, in the registers where a Nitro enclave's stand.

PCR0  the code: every file of the installed avow package
PCR1  the runtime: Python, engines and libraries with their versions
PCR2  the programs that it may run

A register is what one extension of zeros gives, SHA-384(48 zero bytes ‖ SHA-384(measured)), as in a Nitro enclave; so
it is never zero.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import avow
from avow.receipt.encoding import Value, encode

PCR_BYTES = 48
_NO_CODE = frozenset({"__pycache__"})


def extended(measured: bytes) -> bytes:
    """The register of 48 zero bytes after one extension by SHA-384(measured)."""
    return hashlib.sha384(bytes(PCR_BYTES) + hashlib.sha384(measured).digest()).digest()


def code(folder: Path | None = None) -> bytes:
    """PCR0 of the files under `folder` (the avow package): each relative path with the file's SHA-384."""
    folder = folder or Path(avow.__file__).parent
    files: dict[str, Value] = {}
    for path in folder.rglob("*"):
        if path.is_file() and _NO_CODE.isdisjoint(path.parts):
            files[path.relative_to(folder).as_posix()] = hashlib.sha384(path.read_bytes()).digest()
    return extended(encode(files))


def runtime(versions: Mapping[str, str]) -> bytes:
    """PCR1 of names and versions."""
    return extended(encode(dict(versions)))


def programs(program_ids: Iterable[bytes]) -> bytes:
    """PCR2 of program ids of 32 bytes, in any order."""
    return extended(encode([*sorted(set(program_ids))]))
