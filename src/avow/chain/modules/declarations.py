"""Programs whose every operator the chain can referee: what optimistic statements may be about.

Rules:
1. A declaration is a program's manifest, of at most 8 KiB, so that a fraud proof can hold it, and the header of its exact program's file
   (exact/outline.py). The manifest names the engine `exact` and the program root that the header gives.
2. Structure and every record's form are checked here, once: no record of a declared program is one of which a wrong element could not be
   shown in one transaction, or that a referee could not judge.
3. Anyone may declare a program, whoever publishes it; what is declared stays. A second declaration changes nothing.
4. Optimistic statements about a program that is not declared do not settle (books.py). Kept are the root and the height alone.

What the chain cannot see are the values of the constants: who loads the program proves what they have to be.
"""

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.errors import InputError, UnknownVersion
from avow.exact.fraud import MAX_MANIFEST
from avow.exact.outline import outline
from avow.exact.referee import program_root
from avow.receipt.encoding import tagged_hash

_DECLARED = b"registry/declared/"
_PROGRAM_TAG = b"avow/program/1"
"""models/manifest.py, rule 2."""


def declare(host: Host, manifest: bytes, header: bytes) -> tuple[bytes, bytes]:
    """Program id and program root. Raises Refused (PROGRAM_NOT_EXACT)."""
    host.charge(gas.DECLARATION_BYTE * (len(manifest) + len(header)))
    program = tagged_hash(_PROGRAM_TAG, manifest)
    known, _ = declared(host, program)
    if any(known):
        return program, known
    if len(manifest) > MAX_MANIFEST:
        raise Refused(Code.PROGRAM_NOT_EXACT)
    root = program_root(manifest, program)
    try:
        found = outline(header).root
    except (InputError, UnknownVersion):
        raise Refused(Code.PROGRAM_NOT_EXACT) from None
    if root != found:
        raise Refused(Code.PROGRAM_NOT_EXACT)
    host.store(_DECLARED + program, found + host.block.height.to_bytes(8))
    host.log("ProgramDeclared", program, found)
    return program, found


def declared(host: Host, program: bytes) -> tuple[bytes, int]:
    """The root of a program that was declared, and the height at which it was; zeros for another."""
    record = host.load(_DECLARED + program)
    return (bytes(32), 0) if record is None else (record[:32], int.from_bytes(record[32:]))
