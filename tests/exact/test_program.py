"""The file, the root and the structure of programs: one encoding, and everything else is refused by type."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.errors import AvowError, EncodingError, TooLarge, UnknownVersion
from avow.exact import files, program
from avow.exact.errors import BadProgram
from avow.exact.program import (
    CACHE,
    CONSTANT,
    INPUT,
    MAGIC,
    OPERATOR,
    PREVIOUS,
    Constant,
    Head,
    Operator,
    Program,
    Source,
    Tensor,
)
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode, tagged_hash
from tests.exact.programs import program_of

BYTE = (-127, 127)


def parts(**changes):
    """A program of two inputs and three operators, as `build` takes it."""
    x = Operator("input", (Source(INPUT, 0, "int8", (3,), *BYTE),), "int8", (3,), *BYTE)
    y = Operator("clip", (x.source(OPERATOR, 0),), "int8", (3,), -9, 9)
    z = Operator(
        "add",
        (y.source(OPERATOR, 1), Source(CONSTANT, 1, "int32", (1,), 0, 9)),
        "int8",
        (3,),
        *BYTE,
        0,
        {"ma": 1, "mb": 1, "s": 0},
    )
    whole = {
        "name": "three", "mode": "once", "context": 4, "inputs": [Tensor("int8", (3,), *BYTE)],
        "constants": [Constant.of("int8", (70,), bytes(70)), Constant.of("int32", (1,), b"\x07\0\0\0")],
        "operators": [x, y, z], "outputs": [2, 0], "notes": {"scale": "0.5"},
    }  # fmt: skip
    return {**whole, **changes}


def file_of(built: Program) -> bytes:
    return b"".join(bytes(part) for part in built.parts())


def changed(data: bytes, change) -> bytes:
    """The file with another header, padded as it should be."""
    length = int.from_bytes(data[11:19])
    header = decode(data[19 : 19 + length])
    constants = data[19 + length + -(19 + length) % 64 :]
    change(header)
    encoded = encode(header)
    start = MAGIC + len(encoded).to_bytes(8) + encoded
    return start + bytes(-len(start) % 64) + constants


# --- The file and the root -----------------------------------------------------------------------------------------


def test_a_program_is_its_file():
    built = Program.build(**parts())
    data = file_of(built)
    again = Program.parse(data)
    assert again == built
    assert file_of(again) == data
    assert [again.constants[1].value(0), again.constants[1].values()] == [7, (7,)]
    assert data.endswith(b"\x07\0\0\0")
    assert len(data) - data.rindex(b"\x07\0\0\0") == 4


def test_the_root_is_what_the_specification_says():
    built = Program.build(**parts())
    records = [encode(operator.to_value()) for operator in built.operators]
    constants = [encode([each.type, list(each.shape), each.digest]) for each in built.constants]
    notes = tagged_hash(b"avow/exact-notes/1", encode({"scale": "0.5"}))
    head = encode(
        [
            1,
            "once",
            4,
            [["int8", [3], -127, 127]],
            [2, 0],
            [],
            -1,
            notes,
            3,
            merkle.root(records),
            2,
            merkle.root(constants),
            3,
        ]
    )
    assert built.head.encoded() == head
    assert built.root == tagged_hash(b"avow/exact-program/1", head)
    assert Head.parse(head) == built.head
    assert dataclasses.replace(built.head, context=5).root() != built.root
    assert Program.build(**parts(name="other")).root == built.root


def test_operators_and_constants_are_opened_under_the_root():
    built = Program.build(**parts())
    head = Head.parse(built.head.encoded())
    for index, operator in enumerate(built.operators):
        record, path = built.operator_opening(index)
        assert head.operator(index, record, path) == operator
        with pytest.raises(merkle.NotIncluded):
            head.operator((index + 1) % 3, record, path)
    record, path = built.constant_opening(1)
    assert head.constant(1, record, path) == ("int32", (1,), built.constants[1].digest)
    with pytest.raises(merkle.NotIncluded):
        head.constant(0, record, path)


def test_save_and_load(tmp_path: Path):
    built = Program.build(**parts())
    files.save(built, tmp_path / "three.exact")
    assert files.load(tmp_path / "three.exact") == built
    assert [path.name for path in tmp_path.iterdir()] == ["three.exact"]
    (tmp_path / "empty").touch()
    with pytest.raises(BadProgram):
        files.load(tmp_path / "empty")
    with pytest.raises(FileNotFoundError):
        files.load(tmp_path / "missing")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files.save(Program.build(**parts()), tmp_path / "three.exact")
    before = (tmp_path / "three.exact").read_bytes()
    monkeypatch.setattr(program, "MAX_HEADER_BYTES", 10)
    with pytest.raises(TooLarge):
        files.save(Program.build(**parts(name="other")), tmp_path / "three.exact")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


@given(st.integers(0, 1 << 32))
def test_random_programs_are_their_files(seed):
    built = program_of(seed)
    assert Program.parse(file_of(built)) == built


# --- Every other file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(version=2),
        lambda header: header.pop("end"),
        lambda header: header.update(more=1),
        lambda header: header.update(name=5),
        lambda header: header.update(name="n" * 200),
        lambda header: header.update(mode="twice"),
        lambda header: header.update(context=0),
        lambda header: header.update(context=1 << 21),
        lambda header: header.update(context=True),
        lambda header: header.update(inputs=[]),
        lambda header: header.update(inputs=[["int8", [3], -127]]),
        lambda header: header.update(inputs=[["int8", [3], -127, 128]]),
        lambda header: header.update(inputs=[["int8", [3], 5, 4]]),
        lambda header: header.update(inputs=[["int9", [3], -127, 127]]),
        lambda header: header.update(inputs=[["int8", [], -127, 127]]),
        lambda header: header.update(inputs=[["int8", [-1], -127, 127]]),
        lambda header: header.update(operators=[]),
        lambda header: header.update(operators=5),
        lambda header: header.update(outputs=[]),
        lambda header: header.update(outputs=[3]),
        lambda header: header.update(outputs=[2, 2]),
        lambda header: header.update(end=[1]),
        lambda header: header.update(token=1),
        lambda header: header.update(notes={"a": 5}),
        lambda header: header.update(notes=[]),
        lambda header: header.update(constants=header["constants"][:1]),
        lambda header: header["constants"][0].pop(),
        lambda header: header["constants"][1].__setitem__(3, 64),
        lambda header: header["constants"][0].__setitem__(0, "int16"),
        lambda header: header["constants"][0].__setitem__(1, [35]),
        lambda header: header["constants"][0].__setitem__(1, [1 << 30, 1 << 30]),
        lambda header: header["constants"][0].__setitem__(2, bytes(32)),
        lambda header: header["constants"][0].__setitem__(2, bytes(31)),
        lambda header: header["operators"][0].pop("phase"),
        lambda header: header["operators"][0].update(more=1),
        lambda header: header["operators"][0].update(shape=[0]),
        lambda header: header["operators"][0].update(shape=[-1, 3]),
        lambda header: header["operators"][0].update(shape=[1] * 9),
        lambda header: header["operators"][0].update(type="int64"),
        lambda header: header["operators"][0].update(low=-129),
        lambda header: header["operators"][0].update(phase=2),
        lambda header: header["operators"][0].update(kind="k" * 40),
        lambda header: header["operators"][2]["attributes"].update(ma="1"),
        lambda header: header["operators"][2]["attributes"].update(ma=1 << 63),
        lambda header: header["operators"][2]["attributes"].update(ma=[1] * 65),
        lambda header: header["operators"][2].update(attributes={str(at): 0 for at in range(33)}),
        lambda header: header["operators"][2]["inputs"][0].pop(),
        lambda header: header["operators"][2]["inputs"][0].__setitem__(0, 5),
        lambda header: header["operators"][2]["inputs"].extend(header["operators"][2]["inputs"][:1] * 64),
    ],
)
def test_a_changed_header_is_refused(change):
    data = file_of(Program.build(**parts()))
    assert changed(data, lambda _: None) == data
    with pytest.raises((BadProgram, EncodingError, UnknownVersion)):
        Program.parse(changed(data, change))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:10],
        lambda data: b"AVOWEXACT2\n" + data[11:],
        lambda data: data[:11] + (1 << 40).to_bytes(8) + data[19:],
        lambda data: data[:11] + (1 << 20).to_bytes(8) + data[19:],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:-5] + b"\1" + data[-4:],
        lambda data: data[:-1] + b"\1",
        lambda data: data[:19] + b"\xc0" + data[20:],
        lambda data: MAGIC + (1).to_bytes(8) + b"\x80" + bytes(44),
    ],
)
def test_a_changed_file_is_refused(change):
    with pytest.raises((BadProgram, EncodingError, TooLarge)):
        Program.parse(change(file_of(Program.build(**parts()))))


@settings(max_examples=150)
@given(st.data())
def test_the_parser_accepts_one_encoding(data):
    """Whatever it takes is the file of what it gives; all else is one of our errors."""
    raw = bytearray(file_of(program_of(data.draw(st.integers(0, 50)), mode="once", kinds=["clip", "add", "linear"])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                raw[at] = data.draw(st.integers(0, 255))
            case 1:
                del raw[at : at + data.draw(st.integers(1, 9))]
            case 2:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    try:
        found = Program.parse(bytes(raw))
    except AvowError:
        return
    assert file_of(found) == bytes(raw)


@given(st.binary(max_size=200))
def test_records_and_heads_of_noise_are_refused(data):
    for parse in (Operator.parse, Head.parse, Program.parse):
        with pytest.raises(AvowError):
            parse(data)


# --- Structure -----------------------------------------------------------------------------------------------------


def with_source(number, source, **record):
    """The three operators, the last with another source."""
    operators = parts()["operators"]
    last = operators[2]
    inputs = list(last.inputs)
    inputs[number] = source
    return [*operators[:2], dataclasses.replace(last, inputs=tuple(inputs), **record)]


CLIP = Source(OPERATOR, 1, "int8", (3,), -9, 9)


@pytest.mark.parametrize(
    "source",
    [
        dataclasses.replace(CLIP, id=2, low=-127, high=127),
        dataclasses.replace(CLIP, id=3),
        dataclasses.replace(CLIP, id=0),
        dataclasses.replace(CLIP, low=-8),
        dataclasses.replace(CLIP, type="int16"),
        dataclasses.replace(CLIP, shape=(1, 3)),
        dataclasses.replace(CLIP, origin=PREVIOUS),
        dataclasses.replace(CLIP, origin=CACHE),
        Source(CONSTANT, 2, "int32", (1,), 0, 9),
        Source(CONSTANT, 1, "int8", (1,), 0, 9),
        Source(CONSTANT, 1, "int32", (2,), 0, 9),
        Source(INPUT, 0, "int8", (3,), *BYTE),
    ],
)
def test_a_source_that_is_not_there_is_refused(source):
    with pytest.raises(BadProgram) as caught:
        Program.build(**parts(operators=with_source(0, source)))
    assert caught.value.fields["operator"] == 2


def test_input_reads_the_programs_inputs_as_they_are():
    for source in (Source(INPUT, 1, "int8", (3,), *BYTE), Source(INPUT, 0, "int8", (3,), -5, 5)):
        record = Operator("input", (source,), "int8", (3,), *BYTE)
        with pytest.raises(BadProgram) as caught:
            Program.build(**parts(operators=[record, *parts()["operators"][1:]]))
        assert caught.value.fields["operator"] == 0


def test_a_sequence_reads_the_step_before_even_of_later_operators():
    later = dataclasses.replace(CLIP, origin=PREVIOUS, id=2, low=-127, high=127)
    assert Program.build(**parts(mode="sequence", operators=with_source(0, later))).operators[2].inputs[
        0
    ] == dataclasses.replace(later, leaf=2)
    positive = [*parts()["operators"][:1], dataclasses.replace(parts()["operators"][1], low=1), parts()["operators"][2]]
    positive[2] = dataclasses.replace(
        positive[2], inputs=(dataclasses.replace(CLIP, origin=PREVIOUS, low=1), positive[2].inputs[1])
    )
    with pytest.raises(BadProgram):
        Program.build(**parts(mode="sequence", operators=positive))


def generating(**changes):
    """A random generating program's parts."""
    built = program_of(5, mode="generate")
    names = ("name", "mode", "context", "inputs", "constants", "operators", "outputs", "end", "token", "notes")
    return {**{name: getattr(built, name) for name in names}, **changes}


def test_the_parts_of_a_generating_program_belong_together():
    whole = generating()
    Program.build(**whole)
    operators, token = whole["operators"], whole["token"]
    early = next(at for at, operator in enumerate(operators) if operator.phase)
    for changes in (
        {"token": -1},
        {"token": 0, "outputs": [0]},
        {"outputs": [0]},
        {"outputs": [token, 0]},
        {"end": [3, 2]},
        {"end": [2, 2]},
        {"end": [1 << 20]},
        {"inputs": [dataclasses.replace(whole["inputs"][0], shape=(2,))]},
        {"inputs": [*whole["inputs"], *whole["inputs"]]},
        {"mode": "sequence", "token": -1, "end": []},
        {"operators": [*operators[:-1], dataclasses.replace(operators[-1], phase=0)]},
        {"operators": [*operators[:early], *operators[early + 1 :]]},
    ):
        with pytest.raises((BadProgram, EncodingError)):
            Program.build(**generating(**changes))


def test_limits():
    with pytest.raises(BadProgram):
        Program.build(**parts(constants=[Constant.of("int8", (1,), b"\0")] * (program.MAX_CONSTANTS + 1)))
    many = dataclasses.replace(
        parts()["operators"][2], attributes={f"{at:03}" * 30: (1 << 40,) * 60 for at in range(30)}
    )
    with pytest.raises(BadProgram) as caught:
        Program.build(**parts(operators=[*parts()["operators"][:2], many]))
    assert caught.value.fields["operator"] == 2
    for shape, data in (((2,), b"\0"), ((), b"\0"), ((0,), b"")):
        with pytest.raises(BadProgram):
            Constant.of("int8", shape, data)
