"""Another answer than the delivered one, inside what a key signed later: proof by the chain of heads.

Each signature of a key covers the head of its chain of statements (receipt/statement.py), and a batch carries one, over its last
statement. So no second signature under the delivered number is needed:

1. The delivered evidence is what reportEquivocation takes: number n, statement hash, head, signature.
2. The later one is canonical CBOR [number m, previous head, statement hashes n to m joined, COSE_Sign1]. Folding the hashes into the
   previous head gives the head that the key signed under m. Heads are hashes, so nobody can show other statements that lead there.
3. If statement n there is another, or leads to another head, the key signed two histories: it is revoked as for equivocation.

A batch's calldata has all of it. Nothing settled need be looked up, so the proof is good for as long as the chain runs.
"""

from avow.chain import gas
from avow.chain.errors import Code, Refused
from avow.chain.host import Host
from avow.chain.modules import keys
from avow.chain.modules.batch import MAX_STATEMENTS
from avow.errors import InputError
from avow.receipt import fields
from avow.receipt.encoding import decode
from avow.receipt.standing import KeyRecord
from avow.receipt.statement import BadSignature, next_head, statement_payload, verify_signature

HASH = 32
MAX_LATER = HASH * MAX_STATEMENTS + 512
HEAD_GAS = 100
"""One SHA-256 of two or three blocks."""


def report_substitution(host: Host, key: bytes, delivered: bytes, later: bytes) -> None:
    """Rules 1 to 3. Raises Refused (EVIDENCE_REFUSED, or KEY_LIFE for a key that is revoked already)."""
    record = keys.load_key(host, key)
    number, statement, head = keys.signed_evidence(host, key, record, delivered)
    shown, shown_head = _statement_at(host, key, record, later, number)
    if (shown, shown_head) == (statement, head):
        raise Refused(Code.EVIDENCE_REFUSED)
    keys.revoke_for_fault(host, key, record, keys.RevocationCause.EQUIVOCATION)
    host.log("EquivocationProven", key, host.caller, number)


def _statement_at(host: Host, key: bytes, record: KeyRecord, later: bytes, number: int) -> tuple[bytes, bytes]:
    """Hash and head of statement `number` in the history that the later signature covers (rule 2)."""
    host.charge(gas.P256_VERIFY + gas.BATCH_BYTE * len(later) + HEAD_GAS * (len(later) // HASH))
    try:
        parts = fields.array(decode(later, max_bytes=MAX_LATER), "evidence", max_length=4)
        if len(parts) != 4:
            raise Refused(Code.EVIDENCE_REFUSED)
        last = fields.integer(parts[0], "number")
        head = fields.octets(parts[1], "previous head", HASH)
        joined = fields.octets(parts[2], "statements", HASH, HASH * MAX_STATEMENTS)
        signature = fields.octets(parts[3], "signature", 0, 256)
        statements = [joined[at : at + HASH] for at in range(0, len(joined), HASH)]
        if len(joined) % HASH or last - number != len(statements) - 1:
            raise Refused(Code.EVIDENCE_REFUSED)
        first_head = head = next_head(head, statements[0])
        for statement in statements[1:]:
            head = next_head(head, statement)
        payload = statement_payload(host.genesis.chain_id, key, last, statements[-1], head)
        verify_signature(record.signing_key, payload, signature)
    except (InputError, BadSignature):
        raise Refused(Code.EVIDENCE_REFUSED) from None
    return statements[0], first_head
