"""Where the CometBFT program is, and which version it is.

Rules:
1. It is looked for in $AVOW_COMETBFT, then on PATH, then where `make cometbft` puts it (build/bin of this source tree). The
   first that exists is taken; a wrong one is an error, never skipped.
2. The version is that of the module line in the program's build information, not what the program prints of itself (a
   program made by `go install` prints a wrong one).
3. Release line v0.40 is what the application speaks (InsertTx and ReapTxs over sockets exist from v0.40.0 on).

Build information: Go's debug/buildinfo; since Go 1.18 two length-prefixed strings, 32 bytes after the magic's start.
"""

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from avow.consensus.cometbft.errors import CometBFTMissing

VARIABLE = "AVOW_COMETBFT"
MODULE = "github.com/cometbft/cometbft"
RELEASE_LINE = (0, 40)
INSTALL = "make cometbft"
BUILT = Path(__file__).resolve().parents[4] / "build" / "bin" / "cometbft"

_MAGIC = b"\xff Go buildinf:"
_HEADER = 32
_INLINE_STRINGS = 2
_MAX_INFO = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Binary:
    """A CometBFT program. `version` as in its module line, for example "v0.40.0"."""

    path: Path
    version: str


def find() -> Binary:
    """Raises CometBFTMissing, with the command that installs it."""
    path = _locate()
    version = module_version(path)
    if version is None:
        raise CometBFTMissing("this program is no CometBFT", hint=INSTALL, path=str(path))
    if _release_line(version) != RELEASE_LINE:
        wanted = f"v{RELEASE_LINE[0]}.{RELEASE_LINE[1]}"
        raise CometBFTMissing(
            f"CometBFT {version} is installed, {wanted} is needed", hint=INSTALL, path=str(path), version=version
        )
    return Binary(path, version)


def _locate() -> Path:
    named = os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise CometBFTMissing(f"{VARIABLE} names no file", hint=INSTALL, path=str(path))
        return path
    on_path = shutil.which("cometbft")
    if on_path is not None:
        return Path(on_path)
    if BUILT.is_file():
        return BUILT
    raise CometBFTMissing(
        "CometBFT is not installed", hint=f"{INSTALL}, or put v0.40.x on PATH, or name it in {VARIABLE}"
    )


def module_version(path: Path) -> str | None:
    """The version of CometBFT's module in this program; None when there is none."""
    for line in _build_information(path).splitlines():
        kind, _, rest = line.partition("\t")
        if kind == "mod":
            name, _, tail = rest.partition("\t")
            return tail.partition("\t")[0] if name == MODULE else None
    return None


def _build_information(path: Path) -> str:
    """The text that Go's linker leaves in a program; empty when this is no Go program."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEADER:
            return ""
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.find(_MAGIC)
            while at >= 0:
                header = data[at : at + _HEADER]
                if len(header) == _HEADER and header[15] & _INLINE_STRINGS:
                    _, end = _string(data, at + _HEADER)
                    information, _ = _string(data, end)
                    if information:
                        return information.decode("utf-8", "replace")
                at = data.find(_MAGIC, at + 1)
    return ""


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    """A string with its length before it, and where it ends."""
    length = shift = 0
    while at < len(data) and shift <= 28:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            if length <= _MAX_INFO and at + length <= len(data):
                return data[at : at + length], at + length
            break
        shift += 7
    return b"", at


def _release_line(version: str) -> tuple[int, int] | None:
    parts = version.removeprefix("v").split(".")
    try:
        return int(parts[0]), int(parts[1])
    except (ValueError, IndexError):
        return None
