"""Verification of a receipt: named checks, each owning its rules, in a fixed order.

 1 chain        the statement is for the pinned chain
 2 statement    versions, key id, method and times agree within the receipt
 3 signature    the signing key signed number, hash and head (statement.py, rule 4)
 4 anchor       the blocks shown are signed by validators whom the reader's trust reaches (trust.py)
 5 standing     the key was registered for this node and method, and in force, under such a block, not too long before
 6 attestation  what the method adds: for tee, the enclave's attestation of that very key
 7 method       the reader accepts the method
   Of an optimistic statement only (methods/optimistic/verify.py):
   trace        the run's header is the one committed, its salts those of the opening's seed
   ends         it begins with the request and ends with the answer, as far as that shows without the program
   audience     who could check it
   bond         what the node stands to lose
   processing   the answer shown is what another run of the program gives, from request to response
   recomputed   another run of the program has the same trace
 8 program      the reader accepts the program, where the policy names programs
 9 engine       what ran it; a relay is said to be one
10 request      the request shown is the one committed
11 effective    the effective parameters shown are the ones committed
12 response     the response shown is the one committed
13 stream       the stream was delivered whole, and ends in the head that the statement holds
14 freshness    the nonce is the caller's
15 requester    the account named as requester signed the request
16 payment      who pays what
17 settlement   the statement is settled in such a block
   finality     of an optimistic statement only: it can no longer be challenged, and was not overturned
18 required     what the reader demanded is there: a demanded check that was not passed is a failure

No check trusts what an earlier one refused: each fails on its own. Pure: the reader's time is a parameter, and nothing is fetched.
"""

from collections.abc import Callable, Mapping, Sequence

from avow.errors import AvowError
from avow.receipt.commitment import (
    CommitmentMismatch,
    Disclosure,
    Kind,
    Part,
    commit,
    effective_parts,
    verify_disclosure,
)
from avow.receipt.demands import DEMANDS, required
from avow.receipt.encoding import encode_trusted
from avow.receipt.evidence import VOID_CAUSES
from avow.receipt.limits import not_proven
from avow.receipt.question import (
    Facts,
    FurtherCheck,
    FurtherChecks,
    MethodCheck,
    Question,
    Recomputation,
    Shown,
)
from avow.receipt.receipt import Receipt
from avow.receipt.report import Check, CheckName, Outcome, Report
from avow.receipt.requester import Requester
from avow.receipt.standing import KeyRecord, KeyState
from avow.receipt.statement import (
    Method,
    NonceSource,
    key_id,
    next_head,
    private_hash,
    statement_hash,
    statement_payload,
    verify_signature,
)
from avow.receipt.trust import NotAnchored, TrustPolicy

__all__ = ["DEMANDS", "FUTURE_MS", "Question", "Recomputation", "verify_receipt"]

FUTURE_MS = 60_000
"""How far ahead of the reader's clock a statement may end."""


def verify_receipt(
    receipt: Receipt,
    trust: TrustPolicy | None,
    question: Question,
    method_checks: Mapping[Method, MethodCheck],
    further_checks: FurtherChecks,
) -> Report:
    """All checks of `receipt`. Never raises for what is wrong with the receipt: that is what the report says."""
    verification = _Verification(receipt, trust, question, method_checks, further_checks)
    checks = [_guarded(name, check) for name, check in verification.checks()]
    checks.append(required(receipt, question.require, checks))
    return Report(receipt.id, tuple(checks), not_proven(receipt, checks))


def _guarded(name: CheckName, check: Callable[[], Check]) -> Check:
    """The check's outcome; one of our own errors is a failure with its code."""
    try:
        return check()
    except AvowError as error:
        return Check(name, Outcome.FAIL, error.detail, error.code)


class _Verification:
    """The checks of one receipt; what one proves and a later one needs is kept as None until it is proven."""

    def __init__(
        self,
        receipt: Receipt,
        trust: TrustPolicy | None,
        question: Question,
        method_checks: Mapping[Method, MethodCheck],
        further_checks: FurtherChecks,
    ) -> None:
        self.receipt = receipt
        self.trust = trust
        self.question = question
        self.method_checks = method_checks
        self.columns = receipt.statement.columns
        self.further_checks = further_checks.get(self.columns.method, {})
        self.private = receipt.statement.private
        self.evidence = receipt.evidence
        self.hash = statement_hash(self.columns.pack(), private_hash(encode_trusted(self.private.to_value())))
        self.record: KeyRecord | None = None
        self.anchored = False
        self.shown = Shown(receipt, question)

    def checks(self) -> list[tuple[CheckName, Callable[[], Check]]]:
        return [
            (CheckName.CHAIN, self.chain),
            (CheckName.STATEMENT, self.statement),
            (CheckName.SIGNATURE, self.signature),
            (CheckName.ANCHOR, self.anchor),
            (CheckName.STANDING, self.standing),
            (CheckName.ATTESTATION, self.attestation),
            (CheckName.METHOD, self.method),
            *self.further(
                CheckName.TRACE,
                CheckName.ENDS,
                CheckName.AUDIENCE,
                CheckName.BOND,
                CheckName.PROCESSING,
                CheckName.RECOMPUTED,
            ),
            (CheckName.PROGRAM, self.program),
            (CheckName.ENGINE, self.engine),
            (CheckName.REQUEST, self.request),
            (CheckName.EFFECTIVE, self.effective),
            (CheckName.RESPONSE, self.response),
            (CheckName.STREAM, self.stream),
            (CheckName.FRESHNESS, self.freshness),
            (CheckName.REQUESTER, self.requester),
            (CheckName.PAYMENT, self.payment),
            (CheckName.SETTLEMENT, self.settlement),
            *self.further(CheckName.FINALITY),
        ]

    def further(self, *names: CheckName) -> list[tuple[CheckName, Callable[[], Check]]]:
        """Those of the method's further checks that stand at one place."""
        return [(name, self._further(self.further_checks[name])) for name in names if name in self.further_checks]

    def _further(self, check: FurtherCheck) -> Callable[[], Check]:
        return lambda: check(self.receipt, Facts(self.trust, self.question, self.anchored, self.shown))

    def chain(self) -> Check:
        name = CheckName.CHAIN
        if self.trust is None:
            return Check(name, Outcome.SKIPPED, f"says it is for {self.private.chain_id}; no trust policy is pinned")
        if self.private.chain_id != self.trust.chain_id:
            detail = f"the statement is for {self.private.chain_id}, the pinned chain is {self.trust.chain_id}"
            return Check(name, Outcome.FAIL, detail, "wrong_chain")
        return Check(name, Outcome.PASS, f"for the pinned chain {self.trust.chain_id}")

    def statement(self) -> Check:
        name = CheckName.STATEMENT
        if self.private.key != key_id(self.evidence.signing_key):
            return Check(name, Outcome.FAIL, "the signing key is not the one that the statement names", "wrong_key")
        if self.evidence.method is not self.columns.method:
            detail = f"a {self.columns.method.label} statement with {self.evidence.method.label} evidence"
            return Check(name, Outcome.FAIL, detail, "wrong_method")
        if self.private.started_ms > self.columns.ended_ms:
            return Check(name, Outcome.FAIL, "it ends before it starts", "wrong_time")
        if self.columns.ended_ms > self.question.now_ms + FUTURE_MS:
            return Check(name, Outcome.FAIL, "it ends in the future", "wrong_time")
        took = self.columns.ended_ms - self.private.started_ms
        detail = f"number {self.columns.number} of its key, by node 0x{self.private.node.hex()}, in {took} ms"
        return Check(name, Outcome.PASS, detail)

    def signature(self) -> Check:
        head = next_head(self.evidence.previous_head, self.hash)
        payload = statement_payload(self.private.chain_id, self.private.key, self.columns.number, self.hash, head)
        verify_signature(self.evidence.signing_key, payload, self.evidence.signature)
        return Check(CheckName.SIGNATURE, Outcome.PASS, f"signed by key {self.private.key.hex()[:16]}… (ES256)")

    def anchor(self) -> Check:
        name = CheckName.ANCHOR
        if self.trust is None:
            return Check(name, Outcome.SKIPPED, "no trust policy is pinned: `avow trust pin` first")
        standing, settlement = self.evidence.standing, self.receipt.settlement
        finality = None if settlement is None else settlement.finality
        blocks = [item.block for item in (standing, settlement, finality) if item is not None]
        if not blocks:
            return Check(name, Outcome.SKIPPED, "the receipt shows no block")
        try:
            for block in blocks:
                self.trust.check_anchor(block, self.question.now_ms)
        except NotAnchored as error:
            return Check(name, Outcome.SKIPPED, f"{error.detail}: {error.hint}", error.code)
        self.anchored = True
        fewest, pinned = self.trust.fewest_to_forge, len(self.trust.validators)
        if fewest == 1:
            return Check(
                name, Outcome.WARN, "one pinned validator could sign alone: its operator could rewrite the chain"
            )
        return Check(
            name,
            Outcome.PASS,
            f"the blocks shown are signed; it takes {fewest} of {pinned} pinned validators to forge one",
        )

    def standing(self) -> Check:
        name = CheckName.STANDING
        standing = self.evidence.standing
        if standing is None:
            return Check(name, Outcome.SKIPPED, "no proof that the key is registered is shown")
        record = standing.check_membership(self.private.key)
        if record.operator != self.private.node:
            return Check(name, Outcome.FAIL, "the key is registered to another operator", "wrong_operator")
        if record.method is not self.columns.method:
            return Check(name, Outcome.FAIL, f"the key is registered for {record.method.label}", "wrong_method")
        if record.signing_key != self.evidence.signing_key:
            return Check(name, Outcome.FAIL, "the record holds another signing key", "wrong_key")
        self.record = record
        return self._in_force(record, standing.block.header.time_ns // 1_000_000)

    def _in_force(self, record: KeyRecord, shown_ms: int) -> Check:
        """Whether the key was in force when the statement ended, as far as the record shows it."""
        name = CheckName.STANDING
        settled = self.receipt.settlement
        ended = self.columns.ended_ms
        if record.compromised_from is not None and (settled is None or settled.height >= record.compromised_from):
            detail = f"the key is compromised from height {record.compromised_from}"
            return Check(name, Outcome.FAIL, detail, "key_compromised")
        if record.state is not KeyState.ACTIVE and settled is None:
            return Check(name, Outcome.FAIL, f"the key is {record.state.name.lower()}", "key_not_active")
        if record.until_ms is not None and ended > record.until_ms:
            return Check(name, Outcome.FAIL, "the key's registration had expired", "key_expired")
        if ended + FUTURE_MS < record.from_ms:
            return Check(name, Outcome.FAIL, "it ends before the key was registered", "key_not_yet_registered")
        age = abs(ended - shown_ms)
        limit = None if self.trust is None else self.trust.max_standing_age_ms
        if limit is not None and age > limit and (settled is None or shown_ms < ended):
            detail = f"the key's standing is shown {age // 1000} s away from the statement, more than {limit // 1000} s"
            return Check(name, Outcome.FAIL, detail, "standing_too_old")
        since = self.question.now_ms - shown_ms
        if self.question.answered_now and limit is not None and since > limit:
            detail = f"the answer came just now, the key's standing is shown {since // 1000} s ago"
            return Check(name, Outcome.FAIL, detail, "standing_too_old")
        if not self.anchored:
            detail = (
                f"says that the key is registered for {record.method.label}; the block that shows it is not anchored"
            )
            return Check(name, Outcome.SKIPPED, detail)
        detail = f"the key stood registered for {record.method.label}, shown {age // 1000} s away"
        return Check(name, Outcome.PASS, detail)

    def attestation(self) -> Check:
        check = self.method_checks.get(self.columns.method)
        if check is None:
            detail = f"this verifier does not know the method {self.columns.method.label}"
            return Check(CheckName.ATTESTATION, Outcome.FAIL, detail, "unknown_method")
        return check(self.receipt, self.record, self.trust)

    def method(self) -> Check:
        name, label = CheckName.METHOD, self.columns.method.label
        if self.trust is None:
            return Check(name, Outcome.SKIPPED, f"{label}; no trust policy is pinned")
        if self.columns.method not in self.trust.methods:
            return Check(name, Outcome.FAIL, f"you do not accept {label}", "method_not_accepted")
        return Check(name, Outcome.PASS, f"{label}: {_GUARANTEE[self.columns.method]}")

    def program(self) -> Check:
        name, program = CheckName.PROGRAM, self.columns.program
        if self.trust is None or not self.trust.programs:
            return Check(name, Outcome.PASS, f"program {program.hex()[:16]}…; your policy allows any")
        if program not in self.trust.programs:
            return Check(name, Outcome.FAIL, "the program is not among those that you pinned", "wrong_program")
        return Check(name, Outcome.PASS, f"program {program.hex()[:16]}…, which you pinned")

    def engine(self) -> Check:
        engine = self.private.engine
        shown = f"{engine.name} {engine.version}"
        if engine.name == "remote":
            return Check(CheckName.ENGINE, Outcome.WARN, f"{shown}: a relay; the upstream model is not proven")
        return Check(CheckName.ENGINE, Outcome.PASS, shown)

    def request(self) -> Check:
        opening, parts = self.receipt.opening, self.shown.request
        given = self.question.request is not None
        endpoint = None if opening is None else ("endpoint", opening.endpoint.encode())
        if parts is not None and not given and tuple(parts[:1]) != (endpoint,):
            detail = "the request shown is for another endpoint than the opening names"
            return Check(CheckName.REQUEST, Outcome.FAIL, detail, "commitment_mismatch")
        return self._opened(CheckName.REQUEST, "request", self.private.request, parts, given=given)

    def effective(self) -> Check:
        opening = self.receipt.opening
        parts = None if opening is None else effective_parts(opening.effective)
        return self._opened(CheckName.EFFECTIVE, "effective", self.private.effective, parts, given=False)

    def response(self) -> Check:
        parts, given = self.shown.response, self.question.response is not None
        return self._opened(CheckName.RESPONSE, "response", self.private.response, parts, given=given)

    def _opened(
        self, name: CheckName, kind: Kind, commitment: bytes, parts: Sequence[Part] | None, *, given: bool
    ) -> Check:
        """Compare parts with their commitment, or single disclosed parts with theirs."""
        opening = self.receipt.opening
        disclosed = self._disclosed(kind, commitment)
        if opening is not None and parts is not None:
            if len({part for part, _ in parts}) != len(parts):
                return Check(name, Outcome.FAIL, f"the {kind} shows two parts under one name", "ambiguous_parts")
            if commit(kind, opening.seed, parts) != commitment:
                return Check(name, Outcome.FAIL, f"the {kind} shown is not the one committed", "commitment_mismatch")
            what = "effective parameters shown are those" if kind == "effective" else f"{kind} shown is the one"
            return Check(name, Outcome.PASS, f"the {what} committed")
        if given:
            detail = f"the {kind} cannot be compared: this receipt has no opening"
            return Check(name, Outcome.FAIL, detail, "no_opening")
        if disclosed:
            shown = ", ".join(item.name for item in disclosed)
            return Check(name, Outcome.PASS, f"disclosed and as committed: {shown}; the rest is not shown")
        also = "; the endpoint that the opening names is unproven" if opening is not None and kind == "request" else ""
        return Check(name, Outcome.SKIPPED, f"the {kind} is not shown: only its commitment is in the receipt{also}")

    def _disclosed(self, kind: Kind, commitment: bytes) -> list[Disclosure]:
        """The parts disclosed alone, each checked whether or not the whole is shown too. Raises CommitmentMismatch."""
        disclosed = [item for item in self.receipt.disclosures if item.kind == kind]
        for item in disclosed:
            verify_disclosure(item, commitment)
        if len({item.name for item in disclosed}) != len(disclosed):
            raise CommitmentMismatch(f"two parts of the {kind} are disclosed under one name")
        return disclosed

    def stream(self) -> Check:
        name, stream = CheckName.STREAM, self.private.stream
        expected = None if stream is None else stream.head + stream.chunks.to_bytes(8)
        opening = self.receipt.opening
        shown = None if opening is None else opening.response
        if shown is not None and dict(shown).get("stream") != expected:
            return Check(name, Outcome.FAIL, "the response shown is not of the stream stated", "wrong_stream")
        if stream is None:
            if not self.private.complete:
                return Check(name, Outcome.WARN, "the answer is marked incomplete")
            return Check(name, Outcome.PASS, "an answer in one piece")
        if not self.private.complete:
            return Check(name, Outcome.WARN, f"the stream was cut after {stream.chunks} chunks: it proves those alone")
        return Check(name, Outcome.PASS, f"a stream of {stream.chunks} chunks, delivered whole")

    def freshness(self) -> Check:
        name, expected = CheckName.FRESHNESS, self.question.nonce
        if expected is not None and expected != self.private.nonce:
            detail = "the nonce is not the one that was sent: another answer's receipt"
            return Check(name, Outcome.FAIL, detail, "replayed")
        if self.private.nonce_source is NonceSource.GATEWAY:
            detail = "the gateway chose the nonce: the caller cannot tell the answer from a replay"
            return Check(name, Outcome.WARN, detail)
        detail = (
            "the nonce is the one that was sent"
            if expected is not None
            else "the caller chose the nonce, says the node"
        )
        return Check(name, Outcome.PASS, detail)

    def requester(self) -> Check:
        name, requester = CheckName.REQUESTER, self.private.requester
        signature = self.evidence.requester_signature
        if requester is None:
            if signature is not None:
                return Check(name, Outcome.FAIL, "a requester's signature, but no requester", "bad_requester")
            return Check(name, Outcome.SKIPPED, "nobody signed the request")
        if signature is None:
            return Check(name, Outcome.FAIL, "the requester's signature is not there", "bad_requester")
        Requester(requester, signature).verify(
            self.private.chain_id, self.private.request, self.columns.method.label, self.private.nonce
        )
        return Check(name, Outcome.PASS, f"0x{requester.hex()} signed the request")

    def payment(self) -> Check:
        columns = self.columns
        detail = f"{columns.amount} wei for {columns.units} units, payable by 0x{columns.payer.hex()} on settlement"
        return Check(CheckName.PAYMENT, Outcome.PASS, detail)

    def settlement(self) -> Check:
        name, settlement = CheckName.SETTLEMENT, self.receipt.settlement
        if settlement is None:
            return Check(name, Outcome.SKIPPED, "not settled yet: only the node's evidence stands behind it")
        settlement.check_membership(self.hash, self.private.key, self.columns.number)
        if settlement.void:
            detail = f"recorded as void at height {settlement.height}: {VOID_CAUSES[settlement.void]}"
            return Check(name, Outcome.FAIL, detail, "void")
        if self.trust is None:
            return Check(name, Outcome.SKIPPED, f"says height {settlement.height}; no trust policy is pinned")
        gap = settlement.block.header.time_ns // 1_000_000 - self.columns.ended_ms
        if gap < -FUTURE_MS:
            return Check(name, Outcome.FAIL, "it ends after the block that settled it", "wrong_time")
        if not self.anchored:
            detail = f"says height {settlement.height}; the block that shows it is not anchored"
            return Check(name, Outcome.SKIPPED, detail)
        detail = f"settled at height {settlement.height}, proven {max(gap, 0)} ms after the answer"
        return Check(name, Outcome.PASS, detail)


_GUARANTEE = {
    Method.VANILLA: "the accountable word of a named node",
    Method.OPTIMISTIC: "one honest watcher within the window",
    Method.TEE: "a hardware vendor and measured code",
    Method.ZKML: "mathematics",
}
