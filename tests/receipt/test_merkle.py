"""The trees against RFC 6962's own split rule, brute-force models, and forged proofs."""

import contextlib
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avow.errors import EncodingError
from avow.receipt import merkle
from avow.receipt.encoding import decode, encode
from avow.receipt.merkle import HistoryProof, MountainRange, NotIncluded, SparseProof


def reference_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, read literally."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + reference_root(leaves[:split]) + reference_root(leaves[split:])).digest()


def test_published_roots() -> None:
    """The roots of certificate-transparency's test leaves (RFC 6962 reference implementation)."""
    leaves = [
        bytes.fromhex(item)
        for item in (
            "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
        )
    ]  # fmt: skip
    expected = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for count, root in expected.items():
        assert merkle.root(leaves[:count]).hex() == root
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_the_list_tree_is_rfc_6962(leaves: list[bytes]) -> None:
    root = merkle.root(leaves)
    assert root == reference_root(leaves)
    levels = merkle.tree(leaves)
    for index, leaf in enumerate(leaves):
        path = merkle.path_in(levels, index)
        assert len(path) == merkle.path_length(index, len(leaves))
        assert merkle.root_from_path(leaf, index, len(leaves), path) == root


@given(st.integers(1, 200), st.data())
def test_forged_list_paths_give_another_root_or_are_refused(count: int, data: st.DataObject) -> None:
    leaves = [index.to_bytes(4) for index in range(count)]
    index = data.draw(st.integers(0, count - 1))
    path = merkle.path(leaves, index)
    root = merkle.root(leaves)
    other = data.draw(st.integers(0, count - 1).filter(lambda value: value != index)) if count > 1 else None
    if other is not None:
        with contextlib.suppress(NotIncluded):
            assert merkle.root_from_path(leaves[index], other, count, path) != root
    for wrong in (path[1:] if path else [bytes(32)], [*path, bytes(32)]):
        with pytest.raises(NotIncluded, match="length"):
            merkle.root_from_path(leaves[index], index, count, wrong)
    for at in range(len(path)):
        forged = [*path[:at], bytes([path[at][0] ^ 1]) + path[at][1:], *path[at + 1 :]]
        assert merkle.root_from_path(leaves[index], index, count, forged) != root
        with pytest.raises(NotIncluded):
            merkle.root_from_path(leaves[index], index, count, [*path[:at], path[at][:31], *path[at + 1 :]])
    # An inner node offered as a leaf: the prefixes keep the two apart.
    if count > 1:
        inner = merkle.tree(leaves)[0][0] + merkle.tree(leaves)[0][1]
        assert merkle.leaf_hash(inner) != merkle.tree(leaves)[1][0]


@pytest.mark.parametrize(("index", "total"), [(-1, 3), (3, 3), (0, 0), (0, 1 << 64)])
def test_an_index_outside_the_tree_is_refused(index: int, total: int) -> None:
    with pytest.raises(NotIncluded, match="outside"):
        merkle.root_from_path(b"", index, total, [])


def test_path_in_refuses_unknown_leaves() -> None:
    with pytest.raises(IndexError):
        merkle.path([b"a"], 1)
    with pytest.raises(IndexError):
        merkle.path([], 0)


# --- Sparse map ----------------------------------------------------------------------------------------------------


def model_root(entries: dict[bytes, bytes], depth: int = 0) -> bytes:
    """Rule 2 over {path: value hash}, bit by bit."""
    if not entries:
        return bytes(32)
    if len(entries) == 1:
        ((path, value_hash),) = entries.items()
        return sha256(b"\0" + path + value_hash).digest()
    sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
    for path, value_hash in entries.items():
        sides[path[depth // 8] >> (7 - depth % 8) & 1][path] = value_hash
    return sha256(b"\1" + model_root(sides[0], depth + 1) + model_root(sides[1], depth + 1)).digest()


def model_proof(entries: dict[bytes, bytes], path: bytes) -> SparseProof:
    siblings, depth = [], 0
    while len(entries) > 1:
        sides: tuple[dict[bytes, bytes], dict[bytes, bytes]] = ({}, {})
        for item, value_hash in entries.items():
            sides[item[depth // 8] >> (7 - depth % 8) & 1][item] = value_hash
        bit = path[depth // 8] >> (7 - depth % 8) & 1
        siblings.append(model_root(sides[1 - bit], depth + 1))
        entries, depth = sides[bit], depth + 1
    other = next(((p, v) for p, v in entries.items() if p != path), None)
    return SparseProof(tuple(siblings), other)


keys = st.binary(max_size=6)


@given(st.dictionaries(keys, st.binary(max_size=8), max_size=30), keys)
def test_sparse_proofs_of_membership_and_absence(entries: dict[bytes, bytes], key: bytes) -> None:
    hashed = {merkle.sparse_path(k): sha256(v).digest() for k, v in entries.items()}
    root = model_root(hashed)
    for known, value in entries.items():
        proof = model_proof(hashed, merkle.sparse_path(known))
        assert merkle.sparse_root(known, value, proof) == root
        assert merkle.sparse_root(known, value + b"x", proof) != root
        if proof.siblings:
            assert _root_or_none(known, None, proof) != root
    proof = model_proof(hashed, merkle.sparse_path(key))
    if key not in entries:
        assert merkle.sparse_root(key, None, proof) == root
        assert _root_or_none(key, b"", proof) != root
        assert _root_or_none(key, b"", SparseProof(proof.siblings)) != root
    assert SparseProof.from_value(decode(encode(proof.to_value()))) == proof


def _root_or_none(key: bytes, value: bytes | None, proof: SparseProof) -> bytes | None:
    try:
        return merkle.sparse_root(key, value, proof)
    except NotIncluded:
        return None


def test_sparse_proofs_of_the_wrong_form_are_refused() -> None:
    path = merkle.sparse_path(b"k")
    elsewhere = bytes([path[0] ^ 0x80]) + path[1:]
    for key_value, proof, reason in (
        (None, SparseProof((), (path, bytes(32))), "own"),
        (None, SparseProof((b"\1" * 32,), (elsewhere, bytes(32))), "way"),
        (b"v", SparseProof((), (elsewhere, bytes(32))), "names another leaf"),
        (None, SparseProof((b"\1" * 31,)), "list of hashes"),
        (None, SparseProof((b"\1" * 32,) * 257), "list of hashes"),
        (None, SparseProof((bytes(32),)), "collapsed"),
        (b"v", SparseProof((b"\1" * 32, bytes(32))), "collapsed"),
        (None, SparseProof((), (elsewhere[:31], bytes(32))), "pair of hashes"),
    ):
        with pytest.raises(NotIncluded, match=reason):
            merkle.sparse_root(b"k", key_value, proof)


def test_the_empty_map_proves_absence_of_everything() -> None:
    assert merkle.sparse_root(b"anything", None, SparseProof(())) == bytes(32)


# --- History -------------------------------------------------------------------------------------------------------


def model_history(leaves: list[bytes]) -> tuple[list[tuple[int, list[bytes]]], bytes]:
    """Mountains as (start, leaves), and the root."""
    mountains, start = [], 0
    for height in range(len(leaves).bit_length() - 1, -1, -1):
        if len(leaves) >> height & 1:
            mountains.append((start, leaves[start : start + (1 << height)]))
            start += 1 << height
    return mountains, merkle.history_root(len(leaves), [merkle.root(part) for _, part in mountains])


def model_history_proof(leaves: list[bytes], index: int) -> HistoryProof:
    mountains, _ = model_history(leaves)
    own = next(n for n, (start, part) in enumerate(mountains) if start <= index < start + len(part))
    start, part = mountains[own]
    peaks = tuple(merkle.root(p) for n, (_, p) in enumerate(mountains) if n != own)
    return HistoryProof(len(leaves), tuple(merkle.path(part, index - start)), peaks)


@given(st.integers(0, 70))
def test_the_history_grows_by_appending(size: int) -> None:
    leaves = [sha256(bytes([n])).digest() for n in range(size)]
    history = MountainRange()
    for leaf in leaves:
        history = history.append(leaf)
    assert (history.size, history.root()) == (size, model_history(leaves)[1])
    for index, leaf in enumerate(leaves):
        proof = model_history_proof(leaves, index)
        merkle.verify_history(leaf, index, proof, history.root())
        assert HistoryProof.from_value(decode(encode(proof.to_value()))) == proof
        with pytest.raises(NotIncluded):
            merkle.verify_history(leaf + b"x", index, proof, history.root())
        for other in {index + 1, index ^ 1, 0} - {index}:
            with pytest.raises(NotIncluded):
                merkle.verify_history(leaf, other, proof, history.root())
        with pytest.raises(NotIncluded):
            merkle.verify_history(leaf, index, HistoryProof(size + 1, proof.path, proof.peaks), history.root())
        with pytest.raises(NotIncluded, match="length"):
            merkle.verify_history(
                leaf, index, HistoryProof(size, (*proof.path, bytes(32)), proof.peaks), history.root()
            )


def test_fixed_roots() -> None:
    """Ours, so that a changed tag or order cannot go unnoticed: the specification's own numbers."""
    assert merkle.MountainRange().root() == sha256(b"\x0eavow/history/1" + bytes(8)).digest()
    three = MountainRange().append(b"a").append(b"b").append(b"c")
    peaks = [merkle.root([b"a", b"b"]), merkle.root([b"c"])]
    assert three.peaks == tuple(peaks)
    assert three.root() == sha256(b"\x0eavow/history/1" + (3).to_bytes(8) + peaks[0] + peaks[1]).digest()
    assert merkle.tree([]) == []


def test_history_proofs_of_odd_hashes_and_sizes_are_refused() -> None:
    with pytest.raises(NotIncluded, match="32 bytes"):
        merkle.root_from_history(b"", 0, HistoryProof(2, (b"\0" * 31,), ()))
    with pytest.raises(NotIncluded, match="outside"):
        merkle.root_from_history(b"", 0, HistoryProof(0, (), ()))
    with pytest.raises(IndexError):
        merkle.history_mountain(3, 3)
    # Another size has another root even where the peaks are the same.
    assert merkle.history_root(1, [bytes(32)]) != merkle.history_root(2, [bytes(32)])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 300) | st.binary(max_size=34) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["siblings", "other", "size", "path", "peaks", "x"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(values)
def test_proof_parsers_refuse_with_a_code_or_round_trip(value: object) -> None:
    for parser in (SparseProof, HistoryProof):
        with contextlib.suppress(EncodingError):
            assert parser.from_value(value).to_value() == value  # type: ignore[arg-type]
