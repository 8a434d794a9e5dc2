"""The registry: which programs there are, under which names.

Rules:
1. A name is 1 to 64 characters of a-z, 0-9, "-", "_", ".", and begins with a letter or digit. The first to publish under it owns it.
2. Versions of a name count from 1. A version is withdrawn for good; the program can be published again as a new version.
3. A program is offered while at least one version of any name offers it. Statements on a program that is not offered are refused
   from that block on.
4. What optimistic statements are about is declared as well (declarations.py).
"""

import re

from avow.chain.errors import Code, Refused
from avow.chain.host import Host, Module, bind
from avow.chain.modules import declarations
from avow.chain.solidity import load_interface

ADDRESS = bytes.fromhex("0000000000000000000000000000000000000a02")

_NAME = b"registry/name/"
_VERSION = b"registry/version/"
_PROGRAM = b"registry/program/"
_NAME_FORM = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_VERSIONS = 0xFFFF_FFFF


def publish(host: Host, name: str, program: bytes) -> int:
    encoded = _checked(name)
    owner, versions = _name(host, encoded)
    if owner is None:
        owner = host.caller
        host.log("NameClaimed", name, owner)
    elif owner != host.caller:
        raise Refused(Code.NAME_TAKEN)
    if versions >= MAX_VERSIONS:
        raise Refused(Code.OUT_OF_RANGE)
    version = versions + 1
    host.store(_NAME + encoded, owner + version.to_bytes(4))
    host.store(_version_key(encoded, version), program + b"\x00")
    offers_now, from_height = offers(host, program)
    _store_program(host, program, offers_now + 1, from_height or host.block.height)
    host.log("ProgramPublished", name, program, version)
    return version


def withdraw(host: Host, name: str, version: int) -> None:
    encoded = _checked(name)
    _check_owner(host, encoded)
    program, withdrawn = _version(host, encoded, version)
    if withdrawn:
        raise Refused(Code.PROGRAM_UNKNOWN)
    host.store(_version_key(encoded, version), program + b"\x01")
    offers_now, from_height = offers(host, program)
    _store_program(host, program, offers_now - 1, from_height, host.caller)
    host.log("ProgramWithdrawn", name, program, version)


def transfer_name(host: Host, name: str, owner: bytes) -> None:
    encoded = _checked(name)
    versions = _check_owner(host, encoded)
    if not any(owner):
        raise Refused(Code.OUT_OF_RANGE)
    host.store(_NAME + encoded, owner + versions.to_bytes(4))
    host.log("NameTransferred", name, host.caller, owner)


def resolve(host: Host, name: str) -> tuple[bytes, int, bytes]:
    """Program, version and owner; looks back from the newest version, each step paid."""
    encoded = _checked(name)
    owner, versions = _name(host, encoded)
    if owner is None:
        return bytes(32), 0, bytes(20)
    for version in range(versions, 0, -1):
        program, withdrawn = _version(host, encoded, version)
        if not withdrawn:
            return program, version, owner
    return bytes(32), 0, owner


def version_of(host: Host, name: str, version: int) -> tuple[bytes, bool]:
    return _version(host, _checked(name), version)


def offers(host: Host, program: bytes) -> tuple[int, int]:
    """How many versions offer a program, and the height of its first publication (0: never published)."""
    record = host.load(_PROGRAM + program)
    return (int.from_bytes(record[:4]), int.from_bytes(record[4:12])) if record else (0, 0)


def withdrawn_by(host: Host, program: bytes) -> bytes | None:
    """Who withdrew the last version that offered a program; None while one does, and for what was never published."""
    record = host.load(_PROGRAM + program)
    return record[12:] if record and not int.from_bytes(record[:4]) else None


def _store_program(host: Host, program: bytes, count: int, from_height: int, withdrawn: bytes = b"") -> None:
    """u32 offers ‖ u64 height ‖ who withdrew a version, where that was the last change."""
    host.store(_PROGRAM + program, count.to_bytes(4) + from_height.to_bytes(8) + withdrawn)


def _checked(name: str) -> bytes:
    if not _NAME_FORM.fullmatch(name):
        raise Refused(Code.NAME_INVALID)
    return name.encode()


def _name(host: Host, encoded: bytes) -> tuple[bytes | None, int]:
    record = host.load(_NAME + encoded)
    return (record[:20], int.from_bytes(record[20:])) if record else (None, 0)


def _check_owner(host: Host, encoded: bytes) -> int:
    """The number of versions of a name that the caller owns."""
    owner, versions = _name(host, encoded)
    if owner is None:
        raise Refused(Code.NAME_UNKNOWN)
    if owner != host.caller:
        raise Refused(Code.NOT_AUTHORISED)
    return versions


def _version_key(encoded: bytes, version: int) -> bytes:
    """The version stands first, in fixed width, so that no name is another's prefix."""
    return _VERSION + version.to_bytes(4) + encoded


def _version(host: Host, encoded: bytes, version: int) -> tuple[bytes, bool]:
    record = host.load(_version_key(encoded, version))
    if record is None:
        raise Refused(Code.PROGRAM_UNKNOWN)
    return record[:32], record[32] == 1


MODULE: Module = bind(
    ADDRESS,
    load_interface("avow.chain.modules", "registry.sol"),
    {
        "publish": publish,
        "withdraw": withdraw,
        "transferName": transfer_name,
        "resolve": resolve,
        "versionOf": version_of,
        "program": offers,
        "declare": declarations.declare,
        "declared": declarations.declared,
    },
)
