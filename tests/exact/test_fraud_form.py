"""The one form of a fraud proof, member by member, for every kind: what is not of it is no proof, before anything is judged."""

import pytest

from avow.exact.fraud import MAX_HASHES, MAX_OPENED, MAX_PROOF, MEMBERS, FraudProof, MalformedProof, Opened
from avow.receipt.encoding import encode

HASH, OTHER = bytes(range(32)), bytes(range(1, 33))
SAMPLE = {
    "header": b"header",
    "head": b"head",
    "slot": 5,
    "operator": 3,
    "record": b"record",
    "inside": [[1, b"a"], [4, b""]],
    "inside_hashes": [HASH],
    "path": [HASH, OTHER],
    "index": 7,
    "witness": 2,
    "digest": HASH,
    "content": [1_024, HASH],
    "tensors": [[0, [[0, b"chunk"], [2, b"x"]], [HASH]], [9, [[1, bytes(1_040)]], []]],
    "leaves": [OTHER],
    "constants": [[2, [[0, bytes(1_024)]], []]],
    "constant_hashes": [HASH, HASH],
    "key": OTHER,
}
NUMBER = [-1, True, None, b"", "1", [0]]
HASHES = [b"", None, 0, [bytes(31)], [bytes(33)], [0], [HASH, None], [[HASH]]]
OPENED = [
    b"",
    None,
    [0],
    [[0, [[0, b"x"]]]],  # no hashes
    [[0, [[0, b"x"]], [], 0]],
    [[0, [[0]], []]],
    [[0, [[0, b"x", 0]], []]],
    [[0, [], []]],  # no chunk
    [[0, [[0, b""]], []]],
    [[0, [[0, bytes(1_041)]], []]],
    [[0, [[1, b"x"], [0, b"x"]], []]],
    [[0, [[1, b"x"], [1, b"x"]], []]],
    [[1, [[0, b"x"]], []], [0, [[0, b"x"]], []]],
    [[1, [[0, b"x"]], []], [1, [[1, b"x"]], []]],
    [[-1, [[0, b"x"]], []]],
    [[0, [[-1, b"x"]], []]],
    [[0, [[0, b"x"]], [bytes(31)]]],
    [[at, [[0, b"x"]], []] for at in range(MAX_OPENED + 1)],
    [[0, [[at, b"x"] for at in range(MAX_OPENED + 1)], []]],
]
RECORD = [bytes(8_193), None, 0, "text"]
WRONG = {
    "header": RECORD,
    "head": RECORD,
    "record": RECORD,
    "slot": NUMBER,
    "operator": NUMBER,
    "index": NUMBER,
    "witness": [-1, True, b"", "1", [0]],
    "inside": [
        b"",
        None,
        [0],
        [[0]],
        [[0, b"", 0]],
        [[-1, b""]],
        [[0, bytes(8_193)]],
        [[0, 1]],
        [[1, b""], [0, b""]],
        [[1, b""], [1, b"x"]],
        [[at, b""] for at in range(49)],
    ],
    "inside_hashes": HASHES,
    "path": HASHES,
    "leaves": HASHES,
    "constant_hashes": HASHES,
    "digest": [bytes(31), bytes(33), None, 0],
    "key": [bytes(31), bytes(33), None, 0],
    "content": [b"", None, [0], [0, bytes(31)], [0, bytes(33)], [-1, HASH], [True, HASH], [0, HASH, 0], [HASH, 0]],
    "tensors": OPENED,
    "constants": OPENED,
}


def proof_of(kind):
    return {"version": 1, "kind": kind, "manifest": b"m", **{name: SAMPLE[name] for name in MEMBERS[kind]}}


@pytest.mark.parametrize("kind", MEMBERS)
def test_a_proof_of_each_kind_has_one_encoding(kind):
    data = encode(proof_of(kind))
    proof = FraudProof.parse(data)
    assert proof.kind == kind
    assert proof.encoded() == data


@pytest.mark.parametrize("kind", MEMBERS)
def test_each_kind_has_its_own_members_and_no_others(kind):
    value = proof_of(kind)
    for name in value:
        with pytest.raises(MalformedProof):
            FraudProof.parse(encode({other: value[other] for other in value if other != name}))
    for name in SAMPLE.keys() - value.keys():
        with pytest.raises(MalformedProof):
            FraudProof.parse(encode({**value, name: SAMPLE[name]}))
    for other in set(MEMBERS) - {kind}:
        if set(MEMBERS[other]) != set(MEMBERS[kind]):
            with pytest.raises(MalformedProof):
                FraudProof.parse(encode({**value, "kind": other}))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in MEMBERS for name in MEMBERS[kind]])
def test_a_member_of_another_form(kind, name):
    for wrong in WRONG[name]:
        with pytest.raises(MalformedProof):
            FraudProof.parse(encode({**proof_of(kind), name: wrong}))


@pytest.mark.parametrize("manifest", [b"", bytes(8_193), None, 0])
def test_a_manifest_of_another_size(manifest):
    with pytest.raises(MalformedProof):
        FraudProof.parse(encode({**proof_of("program"), "manifest": manifest}))
    for size in (1, 8_192):
        assert FraudProof.parse(encode({**proof_of("program"), "manifest": bytes(size)})).manifest == bytes(size)


@pytest.mark.parametrize("version", [0, 2, True, None, "1"])
def test_another_version(version):
    with pytest.raises(MalformedProof):
        FraudProof.parse(encode({**proof_of("program"), "version": version}))


@pytest.mark.parametrize(
    "data", [b"", b"\x00", encode([]), encode({}), encode({"kind": []}), encode("element"), b"\xa0" * 9]
)
def test_what_is_no_map_of_a_known_kind(data):
    with pytest.raises(MalformedProof):
        FraudProof.parse(data)


def test_as_much_as_fits_is_taken():
    """The longest lists that rules and size allow: an honest proof is never refused for its form."""
    value = proof_of("element")
    opened = [[at, [[0, b"x"]], []] for at in range(MAX_OPENED)]
    inside = [[at, b"r"] for at in range(48)]
    for name, most in (("tensors", opened), ("constants", opened), ("inside", inside)):
        assert FraudProof.parse(encode({**value, name: most})).encoded() == encode({**value, name: most})
    assert FraudProof.parse(encode({**value, "witness": None})).witness is None
    nothing = {**proof_of("header"), "header": b"", "head": b""}  # somebody may have committed to no header at all
    assert FraudProof.parse(encode(nothing)).encoded() == encode(nothing)
    many = [[0, [[at, b"x"] for at in range(MAX_OPENED)], []]]
    assert len(FraudProof.parse(encode({**value, "tensors": many})).tensors[0].chunks) == MAX_OPENED
    small = proof_of("presence")
    fits = (MAX_PROOF - len(encode({**small, "path": []}))) // 34 - 1
    assert fits < MAX_HASHES
    assert len(FraudProof.parse(encode({**small, "path": [HASH] * fits})).path) == fits


def test_the_largest_proof_and_one_byte_more():
    value = proof_of("program")
    path = {**proof_of("presence"), "path": [HASH] * 1_700}
    rest = MAX_PROOF - len(encode({**path, "manifest": b""}))
    size = next(size for size in range(rest, 0, -1) if len(encode({**path, "manifest": bytes(size)})) == MAX_PROOF)
    assert FraudProof.parse(encode({**path, "manifest": bytes(size)})).manifest == bytes(size)
    with pytest.raises(MalformedProof):
        FraudProof.parse(encode({**path, "manifest": bytes(size + 1)}))
    with pytest.raises(MalformedProof):
        FraudProof.parse(encode(value) + b"\0")
    assert Opened(1, ((0, b"x"),), ()).to_value() == [1, [[0, b"x"]], []]
