"""Hostile GGUF headers are refused before an engine sees them."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avow.models.errors import UnsafeModel
from avow.models.gguf import check_gguf, parse_gguf
from tests.models.builders import base_entries, entry, gguf, tensor, text, texts, u32

HUGE = (1 << 64) - 1


def with_entry(**changed):
    return gguf({**base_entries(), **changed})


def test_a_sound_header_is_read():
    found = parse_gguf(gguf())
    assert [item.name for item in found.tensors] == ["a", "b"]
    assert found.tensors[1].size == 34
    assert found.text("tokenizer.chat_template") == "{{ messages[0]['content'] }}"
    assert found.text("llama.block_count") is None
    assert parse_gguf(gguf(version=2)).version == 2


HOSTILE = {
    "empty": b"",
    "magic": gguf(magic=b"GGML"),
    "version 1": gguf(version=1),
    "version of the future": gguf(version=4),
    "tensor count": gguf(counts=(HUGE, 9)),
    "metadata count": gguf(counts=(2, HUGE)),
    "metadata count beyond the file": gguf(counts=(2, 4000)),
    "key length": gguf({"x": struct.pack("<Q", HUGE) + b"abc"}),
    "key too long": with_entry(x=u32("k" * 300, 1)),
    "key not UTF-8": with_entry(x=entry(b"\xff\xfe", 4, bytes(4))),
    "key twice": with_entry(x=u32("llama.block_count", 1)),
    "text length": with_entry(x=entry("x", 8, struct.pack("<Q", 1 << 40))),
    "type": with_entry(x=entry("x", 13, bytes(8))),
    "truth value": with_entry(x=entry("x", 7, b"\x02")),
    "not a number": with_entry(x=entry("x", 6, struct.pack("<f", float("nan")))),
    "array length": with_entry(x=entry("x", 9, struct.pack("<IQ", 4, 1 << 61))),
    "array of texts length": with_entry(x=entry("x", 9, struct.pack("<IQ", 8, 1 << 61))),
    "array of arrays": with_entry(x=entry("x", 9, struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 4, 0))),
    "alignment zero": with_entry(x=u32("general.alignment", 0)),
    "alignment odd": with_entry(x=u32("general.alignment", 48)),
    "alignment of another type": with_entry(x=entry("general.alignment", 8, text("32"))),
    "no tensors": gguf(tensors=[], data=b""),
    "tensor name": gguf(tensors=[tensor("n" * 64)]),
    "tensor twice": gguf(tensors=[tensor("a"), tensor("a", (32,), 8, 256)]),
    "no dimensions": gguf(tensors=[tensor("a", ())]),
    "five dimensions": gguf(tensors=[tensor("a", (1, 1, 1, 1, 1))]),
    "dimension of zero": gguf(tensors=[tensor("a", (0, 2))]),
    "dimensions that overflow": gguf(tensors=[tensor("a", (1 << 33, 1 << 33))]),
    "tensor type": gguf(tensors=[tensor("a", (32,), 4)]),
    "broken block": gguf(tensors=[tensor("a", (33,), 8)]),
    "offset beyond": gguf(tensors=[tensor("a", offset=1 << 40)]),
    "overlap": gguf(tensors=[tensor("a"), tensor("b", (32,), 8, 128)]),
    "unaligned": gguf(tensors=[tensor("a"), tensor("b", (32,), 8, 260)]),
    "data cut": gguf(data=bytes(256 + 33)),
    "data too long": gguf(data=bytes(4096)),
    "no architecture": gguf({k: v for k, v in base_entries().items() if k != "architecture"}),
    "architecture as a path": with_entry(architecture=entry("general.architecture", 8, text("../x"))),
    "shard": with_entry(x=entry("split.count", 2, struct.pack("<H", 3))),
    "no heads": with_entry(heads=u32("llama.attention.head_count", 0)),
    "heads missing": gguf({k: v for k, v in base_entries().items() if k != "heads"}),
    "layers": with_entry(blocks=u32("llama.block_count", 1 << 30)),
    "layers of another type": with_entry(blocks=entry("llama.block_count", 8, text("1"))),
    "no vocabulary": gguf({k: v for k, v in base_entries().items() if k != "tokens"}),
    "empty vocabulary": with_entry(tokens=texts("tokenizer.ggml.tokens", [])),
    "types do not fit": with_entry(types=entry("tokenizer.ggml.token_type", 9, struct.pack("<IQ2i", 5, 2, 1, 1))),
    "token id": with_entry(eos=u32("tokenizer.ggml.eos_token_id", 3)),
    "negative token id": with_entry(eos=entry("tokenizer.ggml.eos_token_id", 5, struct.pack("<i", -1))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name, tmp_path):
    with pytest.raises(UnsafeModel):
        parse_gguf(HOSTILE[name])
    (tmp_path / "model.gguf").write_bytes(HOSTILE[name])
    with pytest.raises(UnsafeModel):
        check_gguf(tmp_path / "model.gguf")


def test_no_token_may_stand_for_none():
    assert parse_gguf(with_entry(eos=u32("tokenizer.ggml.eos_token_id", 0xFFFFFFFF)))


SOUND = gguf()


@given(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(position, value):
    changed = bytearray(SOUND)
    changed[position] = value
    try:
        found = parse_gguf(bytes(changed))
    except UnsafeModel:
        return
    assert all(item.offset + item.size <= len(SOUND) for item in found.tensors)


@given(st.integers(0, len(SOUND) - 1))
def test_a_cut_file_is_refused(length):
    with pytest.raises(UnsafeModel):
        parse_gguf(SOUND[:length])


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_any_bytes_after_the_magic_give_an_answer(data):
    with pytest.raises(UnsafeModel):
        parse_gguf(b"GGUF\x03\0\0\0" + data)
