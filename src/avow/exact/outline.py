"""A program without its constants' values: all that a chain needs to know so that it can referee every operator of it.

Rules:
1. An outline is the header of the program's file, byte for byte, of at most 1 MiB: records, types, shapes and digests, and no value.
2. It gives the program root, as the whole file would.
3. Structure and every record's form hold (`check_form`), and the bounds of what is computed without a leaf (`check_cones`): no operator
   of it is one that a referee could not judge. What constants' values have to be is not seen from here; whoever loads the program proves
   it (specification/bounds.py).

Pure: no clock, no input or output, integers and bytes only.
"""

from avow.errors import EncodingError, TooLarge
from avow.exact.errors import BadProgram
from avow.exact.program import ALIGNMENT, MAX_CONSTANTS, MAX_FILE_BYTES, Program
from avow.exact.records import Constant, integer, shape_of, type_name
from avow.exact.specification import check_form
from avow.exact.specification.bounds import check_cones
from avow.exact.tensors import WIDTHS, size_of
from avow.receipt import fields
from avow.receipt.encoding import Value, decode

MAX_OUTLINE = 1 << 20
MAX_OUTLINE_ITEMS = 400_000


def outline(header: bytes) -> Program:
    """The program of a file's header; its constants have no data. Raises BadProgram, EncodingError, TooLarge, UnknownVersion."""
    if len(header) > MAX_OUTLINE:
        raise TooLarge("the program's header is too large to be declared", size=len(header), limit=MAX_OUTLINE)
    value = decode(header, max_bytes=MAX_OUTLINE, max_items=MAX_OUTLINE_ITEMS)
    if not isinstance(value, dict):
        raise BadProgram("the header is not a map")
    program = Program.from_header(value, _constants(value.get("constants")))
    for index, operator in enumerate(program.operators):
        check_form(program.head, index, operator)
    check_cones(program)
    return program


def _constants(value: Value) -> tuple[Constant, ...]:
    """Each where the file has it: its offset follows from the sizes before it."""
    found: list[Constant] = []
    end = 0
    for item in fields.array(value, "constants", max_length=MAX_CONSTANTS):
        record = fields.array(item, "constant", max_length=4)
        if len(record) != 4:
            raise EncodingError("a constant has not four members")
        kind, shape = type_name(record[0]), shape_of(record[1], symbolic=False)
        end += -end % ALIGNMENT
        if integer(record[3], "offset", 0, MAX_FILE_BYTES) != end:
            raise BadProgram("a constant is not where it should begin")
        end += size_of(shape) * WIDTHS[kind]
        if end > MAX_FILE_BYTES:
            raise TooLarge("the program is too large", size=end, limit=MAX_FILE_BYTES)
        found.append(Constant(kind, shape, fields.octets(record[2], "digest", 32), b""))
    return tuple(found)
