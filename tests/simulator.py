"""An honest network in memory: chain, validators, node keys, engine. It makes valid receipts without a process or a model.

`Simulator(seed)` derives every key from its seed, so two runs make the same bytes (attestation documents aside). It shares with the
product the formats (`avow.receipt`), and none of the code under `chain/`, `consensus/` and `nodes/`: what both agree on, two hands wrote.

    network = Simulator()
    body, receipt = network.answer("POST /v1/chat/completions", network.chat_body("hello"), Method.VANILLA)
    [settled] = network.settle([receipt])
    policy = network.trust()                     # judged at network.now_ms
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avow.exact.hashing import Recorder, trace_of
from avow.exact.tensors import pack
from avow.methods.registration import registration_digest
from avow.methods.tee.attesters import DevelopmentAttester
from avow.methods.tee.verify import verify_attestation
from avow.receipt import merkle
from avow.receipt.audience import Audience
from avow.receipt.commitment import commit, effective_parts, request_parts, response_parts
from avow.receipt.encoding import Value, encode, tagged_hash
from avow.receipt.evidence import (
    SETTLEMENT_ADDRESS,
    Evidence,
    HistoryAnchor,
    ResultAnchor,
    Settlement,
    history_leaf,
)
from avow.receipt.finality import (
    BatchRecord,
    BatchState,
    BondProof,
    BondRecord,
    FinalityProof,
    OptimisticParameters,
    batch_key,
    bond_key,
)
from avow.receipt.light import (
    TransactionResult,
)
from avow.receipt.receipt import Opening, Receipt
from avow.receipt.requester import Requester
from avow.receipt.standing import KEY_PREFIX, KeyRecord, KeyState, Standing
from avow.receipt.statement import (
    Columns,
    EngineIdentity,
    Method,
    NonceSource,
    Private,
    Statement,
    StreamEnd,
    cose_sign1,
    first_head,
    key_id,
    next_head,
    signature_input,
    statement_payload,
    stream_payload,
)
from avow.receipt.stream import assemble, chunk_mac, mac_key, shared_secret, stream_next, stream_parts, stream_start
from avow.receipt.trust import AttestationRoot, TrustPolicy
from tests.simulated_chain import SimulatedChain, history_proof, sparse_proof

CHAT = "POST /v1/chat/completions"
INFER = "POST /v2/models/length/infer"
START_MS = 1_800_000_000_000
WINDOW_MS = 60_000
BOND = 10**16
EFFECTIVE = b'{"max_tokens":64,"seed":7,"temperature":0.0,"template":"chatml"}'
SAMPLED = {"max_tokens": 64, "seed": 7, "temperature_m": 0, "temperature_s": 1}
EXACT_CHAT = json.dumps(
    {
        "engine": {"name": "exact"},
        "sampling": {"temperature": 0, "temperature_m": 0, "temperature_s": 1},
        "seed": 7,
        "max_tokens": 64,
        "stop": [],
    }
).encode()
"""Effective parameters of the optimistic chat program: three tokens of prompt, four chosen."""
EXACT_TENSOR = json.dumps(
    {
        "engine": {"name": "exact", "processor": "none"},
        "ports": {
            side: [
                {
                    "name": name,
                    "scale": "1.0",
                    "rounding": "nearest",
                    "stands_for": "float64",
                    "type": "int32",
                    "low": -(1 << 31),
                    "high": (1 << 31) - 1,
                }
            ]
            for side, name in (("inputs", "input"), ("outputs", "length"))
        },
    }
).encode()
_ES256 = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)


def _effective(endpoint: str, method: Method) -> bytes:
    if method is not Method.OPTIMISTIC:
        return EFFECTIVE
    return EXACT_CHAT if endpoint == CHAT else EXACT_TENSOR


@dataclass
class NodeKey:
    """One key of the node, its private halves, and the statements it signed."""

    method: Method
    signing: ec.EllipticCurvePrivateKey
    transport: ec.EllipticCurvePrivateKey
    record: KeyRecord
    head: bytes
    attestation: bytes | None = None
    registration_block: bytes | None = None
    statements: list[bytes] = field(default_factory=list)
    settled: int = 0

    @property
    def id(self) -> bytes:
        return key_id(self.record.signing_key)


@dataclass(frozen=True)
class StreamEvent:
    """One chunk, its MAC if the client sent a key, and the signed head that follows it, if one does."""

    data: bytes
    mac: bytes | None
    head: bytes | None
    count: int


@dataclass(frozen=True)
class Streamed:
    """A whole stream, before anybody sends it."""

    begin: dict[str, Value]
    events: tuple[StreamEvent, ...]
    receipt: Receipt

    @property
    def body(self) -> bytes:
        return assemble([event.data for event in self.events])


@dataclass(frozen=True)
class _Batch:
    key: NodeKey
    first: int
    statements: tuple[bytes, ...]
    voids: tuple[int, ...]

    @property
    def leaves(self) -> list[bytes]:
        pairs = zip(self.statements, self.voids, strict=True)
        return [statement + void.to_bytes(1) for statement, void in pairs]


def point(private: ec.EllipticCurvePrivateKey) -> bytes:
    """The 65-byte SEC 1 point of a key's public half."""
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


class Simulator(SimulatedChain):
    """See the module's text. `validators` have power 10 each."""

    def __init__(self, seed: int | str = 0, *, validators: int = 1, start_ms: int = START_MS) -> None:
        self.seed = f"avow-simulator/{seed}".encode()
        secrets = [self._bytes(f"validator {number}") for number in range(validators)]
        super().__init__("avow-" + self._bytes("genesis").hex()[:16], secrets, start_ms)
        self.operator = self._bytes("operator")[:20]
        self.payer = self._bytes("payer")[:20]
        self.programs = {name: tagged_hash(b"avow/program/1", self._bytes(name)) for name in ("echo", "length")}
        self.attestation_roots: list[AttestationRoot] = []
        self.keys: dict[Method, NodeKey] = {}
        self._settlements: dict[bytes, tuple[Settlement, int, _Batch]] = {}
        self._serial = 0
        self.advance()
        self.register(Method.VANILLA)

    # --- keys ------------------------------------------------------------------------------------------------------

    def _bytes(self, name: str) -> bytes:
        return hashlib.sha256(self.seed + b"/" + name.encode()).digest()

    def private_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A P-256 key of this network's seed."""
        return ec.derive_private_key(int.from_bytes(self._bytes(name)) >> 1 | 1, ec.SECP256R1())

    def sign(self, private: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
        """COSE_Sign1, ES256, detached."""
        return cose_sign1(*decode_dss_signature(private.sign(signature_input(payload), _ES256)))

    def register(self, method: Method, *, generation: int = 0) -> NodeKey:
        """A key for `method`, on chain; tee comes with an attestation of a development enclave."""
        signing = self.private_key(f"signing {method.label} {generation}")
        transport = self.private_key(f"transport {method.label} {generation}")
        block_hash = self.blocks[-1].header.hash
        attested: tuple[bytes, bytes, bytes, bytes, int] | None = None
        if method is Method.TEE:
            digest = registration_digest(self.chain_id, self.operator, point(signing), point(transport), block_hash)
            attested = self._attest(point(signing), digest)
        record = KeyRecord(
            operator=self.operator,
            method=method,
            signing_key=point(signing),
            transport_key=point(transport),
            measurement=attested[1] if attested else None,
            attestation=attested[2] if attested else None,
            root=attested[3] if attested else None,
            state=KeyState.ACTIVE,
            from_height=len(self.blocks),
            from_ms=self.now_ms,
            until_ms=attested[4] if attested else None,
            compromised_from=None,
        )
        key = NodeKey(method, signing, transport, record, first_head(self.chain_id, key_id(point(signing))))
        if attested:
            key.attestation, key.registration_block = attested[0], block_hash
        self.keys[method] = key
        if method is Method.OPTIMISTIC:
            self.set_bond(BondRecord(5 * BOND, BOND))
        self.set_record(method, record)
        return key

    def set_bond(self, record: BondRecord | None) -> None:
        """Change the operator's bond on chain."""
        self.state[bond_key(self.operator)] = record.to_bytes() if record else b""
        if record is None:
            del self.state[bond_key(self.operator)]

    def set_record(self, method: Method, record: KeyRecord) -> None:
        """Change a key's record on chain, and let a block pass."""
        self.keys[method].record = record
        self.state[KEY_PREFIX + self.keys[method].id] = record.to_bytes()
        self.advance()

    def _attest(self, public_key: bytes, user_data: bytes) -> tuple[bytes, bytes, bytes, bytes, int]:
        """Document, measurement, payload hash, root fingerprint, end of validity."""
        with tempfile.TemporaryDirectory() as home:
            programs = self.programs.values()
            enclave = DevelopmentAttester(Path(home), programs=programs, versions={}, clock_ms=lambda: self.now_ms)
        document = enclave.attest(public_key, user_data)
        held = verify_attestation(document, roots=[enclave.root], now_ms=self.now_ms)
        self.attestation_roots.append(AttestationRoot("simulated development enclave", "development", enclave.root))
        return document, held.measurement, held.payload_hash, held.root_fingerprint, held.valid_until_ms

    # --- what a reader is shown -------------------------------------------------------------------------------------

    def standing(self, method: Method) -> Standing:
        """The key's record under the newest block whose app hash is that of the state now."""
        key = KEY_PREFIX + self.keys[method].id
        if self.blocks[-1].header.app_hash != self.app_hash:
            self.advance()
        return Standing(self.state[key], sparse_proof(self.state, key), self.history_root, self.blocks[-1])

    def bond(self) -> BondProof:
        """The operator's bond, under the block that `standing` shows."""
        key = bond_key(self.operator)
        return BondProof(self.state.get(key), sparse_proof(self.state, key))

    def finality(self, receipt: Receipt, **changes: object) -> Receipt:
        """A settled optimistic receipt with its batch's record, changed on chain by `changes`, under a new block."""
        settlement = receipt.settlement
        assert settlement is not None
        first = receipt.statement.columns.number - settlement.leaf
        key = batch_key(receipt.statement.private.key, first)
        record = replace(BatchRecord.from_bytes(self.state[key]), **changes)  # type: ignore[arg-type]
        self.state[key] = record.to_bytes()
        block = self.advance()
        proof = FinalityProof(first, self.state[key], sparse_proof(self.state, key), self.history_root, block)
        return receipt.with_settlement(replace(settlement, finality=proof))

    def trust(self) -> TrustPolicy:
        """The policy that pins this network at its first block."""
        first = self.blocks[0].header
        return TrustPolicy(
            chain_id=self.chain_id,
            height=first.height,
            time_ms=first.time_ns // 1_000_000,
            validators=self.validators,
            attestation_roots=tuple(dict.fromkeys(self.attestation_roots)),
            stake=OptimisticParameters().stake,
        )

    # --- inference -------------------------------------------------------------------------------------------------

    def chat_body(self, text: str = "Say something.", *, stream: bool = False, **more: object) -> bytes:
        request = {"model": "echo", "messages": [{"role": "user", "content": text}], "stream": stream, **more}
        return json.dumps(request).encode()

    def answer(
        self,
        endpoint: str,
        body: bytes,
        method: Method = Method.VANILLA,
        *,
        nonce: bytes | None = None,
        seed: bytes | None = None,
        requester: Requester | None = None,
        program: bytes | None = None,
        complete: bool = True,
        audience: Audience | None = None,
        terms: int = 0,
    ) -> tuple[bytes, Receipt]:
        """The response body, and a receipt whose opening holds seed, endpoint and effective parameters."""
        self._serial += 1
        seed = seed or self._fresh("seed")
        response, usage = self._engine(endpoint, body)
        request = commit("request", seed, request_parts(endpoint, body))
        shown = _effective(endpoint, method)
        effective = commit("effective", seed, effective_parts(shown))
        answered = commit("response", seed, response_parts(response))
        header = self._trace(seed, endpoint, body, response) if method is Method.OPTIMISTIC else None
        receipt = self._state(
            endpoint, method, nonce, seed, requester, program, (request, effective, answered), usage, None, complete,
            header, audience, terms,
        )  # fmt: skip
        return response, receipt

    def _trace(self, seed: bytes, endpoint: str, body: bytes, response: bytes) -> bytes:
        """The header of a run of one operator: of a chat, of as many tokens as are counted; else of the tensors as they are."""
        recorder, chat = Recorder(seed, 1), endpoint == CHAT
        steps = 6 if chat else 1
        for step in range(steps):
            recorder.record(step, 0, response)
        inputs, outputs = [body], [response]
        if not chat:
            inputs = [pack("int32", tensor["data"]) for tensor in json.loads(body)["inputs"]]
            outputs = [pack("int32", tensor["data"]) for tensor in json.loads(response)["outputs"]]
        return recorder.finish(
            program=self._bytes("exact program"), steps=steps, prompt=3 if chat else 0, parameters=SAMPLED if chat else {},
            finish="end" if chat else "whole", inputs=inputs, outputs=outputs,
        ).header  # fmt: skip

    def stream(
        self,
        body: bytes,
        method: Method = Method.VANILLA,
        *,
        nonce: bytes | None = None,
        seed: bytes | None = None,
        client_key: bytes | None = None,
        requester: Requester | None = None,
        heads: Sequence[int] = (1, 4),
    ) -> Streamed:
        """The same as a stream of small chunks; `heads` are the counts after which a signed head is sent."""
        seed = seed or self._fresh("seed")
        key = self.keys[method]
        request = commit("request", seed, request_parts(CHAT, body))
        effective = commit("effective", seed, effective_parts(EFFECTIVE))
        macs = None if client_key is None else mac_key(shared_secret(key.transport, client_key), request, effective)
        head = stream_start(request, effective)
        events: list[StreamEvent] = []
        chunks = self._chunks(body)
        for count, data in enumerate(chunks, 1):
            head = stream_next(head, data)
            payload = stream_payload(self.chain_id, key.id, request, effective, count, head)
            signed = self.sign(key.signing, payload) if count in heads or count == len(chunks) else None
            events.append(StreamEvent(data, chunk_mac(macs, head) if macs else None, signed, count))
        answered = commit("response", seed, stream_parts(chunks, head))
        usage = (("completion_tokens", len(chunks) - 2), ("prompt_tokens", 3))
        commitments = (request, effective, answered)
        end = StreamEnd(head, len(chunks))
        receipt = self._state(CHAT, method, nonce, seed, requester, None, commitments, usage, end, True)
        begin: dict[str, Value] = {
            "seed": seed,
            "effective": EFFECTIVE,
            "signing_key": key.record.signing_key,
            "standing": encode(self.standing(method).to_value()),
            "transport_key": key.record.transport_key,
        }
        return Streamed(begin, tuple(events), receipt)

    def _state(
        self,
        endpoint: str,
        method: Method,
        nonce: bytes | None,
        seed: bytes,
        requester: Requester | None,
        program: bytes | None,
        commitments: tuple[bytes, bytes, bytes],
        usage: tuple[tuple[str, int], ...],
        stream: StreamEnd | None,
        complete: bool,
        header: bytes | None = None,
        audience: Audience | None = None,
        terms: int = 0,
        shown: bytes = b"",
    ) -> Receipt:
        key = self.keys[method]
        units = sum(count for _, count in usage)
        model = "echo" if endpoint == CHAT else "length"
        statement = Statement(
            Columns(
                len(key.statements),
                program or self.programs[model],
                self.payer,
                method,
                units,
                units * 10,
                1,
                self.now_ms + 5,
                b"" if header is None else trace_of(header),
                terms,
            ),
            Private(
                chain_id=self.chain_id,
                node=self.operator,
                key=key.id,
                engine=EngineIdentity("simulator", "1", "python"),
                request=commitments[0],
                effective=commitments[1],
                response=commitments[2],
                nonce=nonce or self._fresh("nonce"),
                nonce_source=NonceSource.CLIENT if nonce else NonceSource.GATEWAY,
                requester=requester.address if requester else None,
                authorised=False,
                started_ms=self.now_ms,
                usage=tuple(sorted(usage, key=lambda count: (len(count[0]), count[0]))),
                stream=stream,
                complete=complete,
                audience=None if header is None else audience or Audience(),
            ),
        )
        opening = Opening(seed, endpoint, shown or _effective(endpoint, method), header=header)
        return self.state_and_sign(key, statement, opening, requester)

    def state_and_sign(
        self, key: NodeKey, statement: Statement, opening: Opening | None, requester: Requester | None = None
    ) -> Receipt:
        """Sign `statement` as the key's next one, whatever it says."""
        digest = statement.hash()
        previous, key.head = key.head, next_head(key.head, digest)
        number = statement.columns.number
        signature = self.sign(key.signing, statement_payload(self.chain_id, key.id, number, digest, key.head))
        key.statements.append(digest)
        evidence = Evidence(
            method=key.method,
            signature=signature,
            previous_head=previous,
            signing_key=key.record.signing_key,
            standing=self.standing(key.method),
            attestation=key.attestation,
            registration_block=key.registration_block,
            requester_signature=requester.signature if requester else None,
            bond=self.bond() if key.method is Method.OPTIMISTIC else None,
        )
        return Receipt(statement, evidence, opening=opening)

    def _fresh(self, name: str) -> bytes:
        self._serial += 1
        return self._bytes(f"{name} {self._serial}")

    def _engine(self, endpoint: str, body: bytes) -> tuple[bytes, tuple[tuple[str, int], ...]]:
        request = json.loads(body)
        if endpoint == CHAT:
            usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
            message = {"role": "assistant", "content": _reply(request), "refusal": None}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
            response = {
                "id": f"chatcmpl-{self._serial}",
                "object": "chat.completion",
                "created": self.now_ms // 1000,
                "model": request["model"],
                "choices": [choice],
                "usage": usage,
            }
            return json.dumps(response).encode(), tuple((name, usage[name]) for name in usage if name != "total_tokens")
        size = sum(len(str(item)) for tensor in request["inputs"] for item in tensor["data"])
        output = {"name": "length", "datatype": "INT64", "shape": [1], "data": [size]}
        return json.dumps({"model_name": "length", "outputs": [output]}).encode(), (("inferences", 1),)

    def _chunks(self, body: bytes) -> list[bytes]:
        request = json.loads(body)
        base = {"id": f"chatcmpl-{self._serial}", "object": "chat.completion.chunk", "created": self.now_ms // 1000}

        def chunk(delta: dict[str, object], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return json.dumps({**base, "model": request["model"], "choices": [choice]}).encode()

        words = [word + " " for word in _reply(request).split(" ")]
        chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
        chunks.append(chunk({}, "stop"))
        if (request.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 3, "completion_tokens": len(words), "total_tokens": 3 + len(words)}
            chunks.append(json.dumps({**base, "model": request["model"], "choices": [], "usage": usage}).encode())
        return chunks

    # --- settlement ------------------------------------------------------------------------------------------------

    def settle(self, receipts: Sequence[Receipt], *, voids: dict[bytes, int] | None = None) -> list[Receipt]:
        """Settle everything that was signed, in one block; the given receipts with their proofs, in their order.

        `voids` maps a statement hash to the cause for which it is settled as void.
        """
        batches: list[_Batch] = []
        for key in self.keys.values():
            waiting = tuple(key.statements[key.settled :])
            if waiting:
                batches.append(_Batch(key, key.settled, waiting, tuple((voids or {}).get(s, 0) for s in waiting)))
                key.settled = len(key.statements)
        if batches:
            self._settle(batches)
        return [receipt.with_settlement(self._settlements[receipt.statement.hash()][0]) for receipt in receipts]

    def _settle(self, batches: Sequence[_Batch]) -> None:
        results = [TransactionResult(0, _output(batch), 100_000, 50_000) for batch in batches]
        height = self.advance(results).header.height
        first = len(self.history)
        for batch in batches:
            root = merkle.root(batch.leaves)
            self.record(history_leaf(height, batch.key.id, batch.first, len(batch.statements), root))
            if batch.key.method is Method.OPTIMISTIC:
                self.state[batch_key(batch.key.id, batch.first)] = self._batch_record(batch, root)
        proof_block = self.advance()
        result_levels = merkle.tree([result.leaf() for result in results])
        for place, batch in enumerate(batches):
            anchor = ResultAnchor(place, len(batches), results[place], tuple(merkle.path_in(result_levels, place)))
            levels = merkle.tree(batch.leaves)
            for index, statement in enumerate(batch.statements):
                settlement = Settlement(
                    height=height,
                    leaf=index,
                    leaves=len(batch.statements),
                    leaf_path=tuple(merkle.path_in(levels, index)),
                    void=batch.voids[index],
                    anchor=anchor,
                    block=proof_block,
                )
                self._settlements[statement] = (settlement, first + place, batch)

    def _batch_record(self, batch: _Batch, root: bytes) -> bytes:
        count = len(batch.statements)
        clock = self.now_ms
        return BatchRecord(
            root, count, self.operator, clock, clock + WINDOW_MS, 0, count * BOND, BatchState.OPEN
        ).to_bytes()  # fmt: skip

    def refresh(self, receipt: Receipt) -> Receipt:
        """The same settlement, shown by the chain's history under the newest block."""
        settlement, index, batch = self._settlements[receipt.statement.hash()]
        block = self.advance()
        anchor = HistoryAnchor(
            index=index,
            first=batch.first,
            root=merkle.root(batch.leaves),
            proof=history_proof(self.history, index),
            state_root=self.state_root,
        )
        return receipt.with_settlement(replace(settlement, anchor=anchor, block=block))


def _reply(request: dict[str, object]) -> str:
    messages = request["messages"]
    assert isinstance(messages, list)
    return f"You said: {messages[-1]['content']}"


def _output(batch: _Batch) -> bytes:
    root = merkle.root(batch.leaves)
    output = root + batch.key.id + batch.first.to_bytes(32) + len(batch.statements).to_bytes(32)
    return encode({"to": SETTLEMENT_ADDRESS, "output": output})
