"""What a dispute makes public, and what it does not: everything that can be posted is searched with a dictionary.

The attacker has the chain's data (trace, headers, demands, answers, proofs) and a dictionary in which the true contents are: every
chunk, every tensor, every input. It may hash each candidate in every way that the trace knows, under every salt that it has seen.
"""

from dataclasses import replace
from random import Random

import pytest

from avow.exact import descent
from avow.exact.claims import Withheld
from avow.exact.fraud import FraudProof
from avow.exact.hashing import OUTPUT_SLOT, SALT, Salts, chunks, constant_digest, tensor_digest
from avow.exact.prover import check_header, find_fault
from avow.exact.tensors import unpack
from avow.receipt import merkle
from avow.receipt.commitment import commit, request_parts
from avow.receipt.encoding import decode, encode
from tests.exact.test_fraud import another, honest, leaf_slots
from tests.exact.traces import SEED


def byte_strings(value):
    """Every byte string in a decoded value, and in byte strings that are CBOR themselves."""
    if isinstance(value, bytes):
        yield value
        try:
            yield from byte_strings(decode(value))
        except Exception:
            return
    elif isinstance(value, list):
        for item in value:
            yield from byte_strings(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from byte_strings(item)


def every_cut(text):
    """The 32-byte hashes and 16-byte salts in a posted byte string."""
    return {text} if len(text) <= 32 else {text[:SALT], text}


def posted_by(claim, own):
    """All that ends on chain when a silent liar is convicted by demands: each demand, each answer, the proof."""
    answers, posted = {}, [claim.trace]

    class Chain:
        def ask(self, demand):
            return answers.get(demand.encoded())

    while True:
        try:
            header = check_header(claim.subject, Chain())
            proof = (
                header
                if isinstance(header, FraudProof)
                else find_fault(claim.subject, header, own, Salts(SEED), Chain())
            )
            break
        except Withheld as withheld:
            answer = descent.answer_to(withheld.demand, claim)
            answers[withheld.demand.encoded()] = answer
            posted += [withheld.demand.encoded(), answer]
    return [*posted, *([] if proof is None else [proof.encoded()])], proof


def dictionary_finds(claim, posted):
    """The slots and chunks whose contents, once guessed, something posted confirms."""
    seen = set()
    for item in posted:
        seen |= {item}
        try:
            for text in byte_strings(decode(item)):
                seen |= every_cut(text)
        except Exception:
            pass
    salts = [text for text in seen if len(text) == SALT] + [b"", bytes(SALT)]
    found = set()
    for slot, data in claim.tensors.items():
        parts = list(chunks(data))
        for number, chunk in enumerate(parts):
            if any(merkle.leaf_hash(salt + chunk) in seen or (any(salt) and salt + chunk in seen) for salt in salts):
                found.add((slot, number))
        for salt in salts:
            root = merkle.root([salt + chunk for chunk in parts])
            digest = tensor_digest(len(data), root)
            if {root, digest, merkle.leaf_hash(digest), merkle.leaf_hash(salt + digest)} & seen:
                found |= {(slot, number) for number in range(len(parts))}
        if {constant_digest(data), merkle.leaf_hash(constant_digest(data))} & seen:
            found |= {(slot, number) for number in range(len(parts))}
    return found


def opened_by(proof, posted):
    """The chunks that the proof and the answers open."""
    found = {(tensor.slot, number) for tensor in (proof.tensors if proof else ()) for number, _ in tensor.chunks}
    for item in posted:
        try:
            demand = descent.Demand.parse(item)
        except Exception:
            continue
        if demand.asked == "chunk":
            found.add((demand.slot, demand.chunk.index))
    return found


@pytest.mark.parametrize("seed", range(24))
def test_a_dictionary_finds_what_was_opened_and_nothing_else(seed):
    claim, own = honest(seed)
    random = Random(seed)
    slot = random.choice(leaf_slots(claim))
    operator = claim.program.operators[claim.program.place(slot)[1]]
    index = random.randrange(len(unpack(operator.type, claim.tensors[slot])))
    value = another(random, operator, unpack(operator.type, claim.tensors[slot])[index], inside=True)
    if value is None:
        return
    liar = claim.altered(slot, index, value)
    posted, proof = posted_by(liar, own)
    opened = opened_by(proof, posted)

    def contents(places):
        return {list(chunks(liar.tensors[at]))[number] for at, number in places}

    # a reshape, say, has the contents of what it reads: what is public is a content, not a place
    assert contents(dictionary_finds(liar, posted)) <= contents(opened)
    assert (slot, 0) in opened or index


@pytest.mark.parametrize("seed", range(12))
def test_an_honest_trace_shows_nothing(seed):
    """All its hashes are posted: every answer that is not a chunk."""
    claim, own = honest(seed)
    header = claim.header_bytes
    posted = [claim.trace, header, *claim.digests, *[merkle.leaf_hash(leaf) for leaf in claim.digests]]
    for slot in claim.tensors:
        posted += [merkle.leaf_hash(chunk) for chunk in claim.tensor(slot)[1]]
    assert dictionary_finds(claim, posted) == set()


def test_the_attack_works_where_there_is_no_salt():
    """The same search finds everything once the salts are known: it is the salts that hold."""
    claim, own = honest(3)
    salts = [
        claim.tensor(slot)[1][number][:SALT] for slot in claim.tensors for number in range(len(claim.tensor(slot)[1]))
    ]
    posted = [merkle.leaf_hash(chunk) for slot in claim.tensors for chunk in claim.tensor(slot)[1]] + salts

    class Shown:
        tensors = claim.tensors

    seen = set(posted)
    assert all(
        any(merkle.leaf_hash(salt + chunk) in seen for salt in salts)
        for data in Shown.tensors.values()
        for chunk in chunks(data)
    )


def test_equal_inputs_of_two_statements_look_different():
    claim, _ = honest(5)
    other = replace(claim, salts={-1: Salts(bytes(32))}).commit()
    assert (set(claim.digests) & set(other.digests)) <= {bytes(32)}
    assert claim.parsed.inputs != other.parsed.inputs


# --- After the key was answered on chain ------------------------------------------------------------------------------


def confirmed_by(key, posted, guesses):
    """The slots and chunks of which a guess is confirmed by somebody who has the key and everything that was posted."""
    salts, seen = Salts.under(key), set()
    for item in posted:
        seen |= {item}
        try:
            seen |= set(byte_strings(decode(item)))
        except Exception:
            pass
    found = set()
    for slot, data in guesses.items():
        hashes = salts.chunk_hashes(slot, data)
        found |= {(slot, number) for number, leaf in enumerate(hashes) if leaf in seen}
        digest = tensor_digest(len(data), merkle.root_of_hashes(hashes))
        if {digest, merkle.leaf_hash(digest)} & seen:
            found |= {(slot, number) for number in range(len(hashes))}
    return found


def every_hash(claim):
    """What all answers but chunks hold."""
    hashes = [merkle.leaf_hash(chunk) for slot in claim.tensors for chunk in claim.tensor(slot)[1]]
    return [claim.trace, claim.header_bytes, *claim.digests, *hashes]


@pytest.mark.parametrize("seed", range(12))
def test_the_key_and_a_header_confirm_a_guess_of_a_whole_input_or_output_alone(seed):
    claim, _ = honest(seed)
    found = confirmed_by(claim.key(), [claim.trace, claim.header_bytes, encode(claim.key())], claim.tensors)
    ends = {slot for slot in claim.tensors if slot >= OUTPUT_SLOT and claim.tensors[slot]}
    only_leaf = {0} if len(claim.digests) == 1 else set()  # its hash is the root that the header holds
    assert ends <= {slot for slot, _ in found} <= ends | only_leaf


@pytest.mark.parametrize("seed", range(12))
def test_the_key_confirms_guesses_of_what_a_hash_was_posted_of_and_nothing_near(seed):
    claim, _ = honest(seed)
    posted = [*every_hash(claim), encode(claim.key())]
    places = {(slot, number) for slot, data in claim.tensors.items() for number, _ in enumerate(chunks(data))}
    assert confirmed_by(claim.key(), posted, claim.tensors) == places
    near = {
        slot: bytes(byte ^ 1 if at % 1_024 == 0 else byte for at, byte in enumerate(data))
        for slot, data in claim.tensors.items()
    }
    assert confirmed_by(claim.key(), posted, near) == set()


@pytest.mark.parametrize("seed", range(12))
def test_one_statements_key_tells_nothing_of_another_with_the_same_contents(seed):
    claim, _ = honest(seed)
    salts = Salts(bytes(32))
    other = replace(claim, salts={-1: salts}).commit(salts=salts.commitment)
    assert confirmed_by(claim.key(), every_hash(other), other.tensors) == set()
    assert confirmed_by(other.key(), every_hash(other), other.tensors) != set()


def test_the_key_is_not_the_seed_and_opens_no_request():
    """The request's commitment, which everybody sees, is salted from the seed: the key goes one way."""
    parts = request_parts("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"yes"}]}')
    claim, _ = honest(5)
    for guess in (claim.key(), claim.parsed.salts, Salts.under(claim.key()).salt(0, 0) * 2):
        assert commit("request", guess, parts) != commit("request", SEED, parts)
        assert Salts(guess).commitment != claim.parsed.salts
