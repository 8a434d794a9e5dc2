"""Digests of tensors, and the trace: what a node commits to when it runs an exact program.

Rules:
1. A tensor is its little-endian bytes, row-major, cut into chunks of 1,024 bytes (the last may be shorter; an empty tensor has none).
   digest(tensor) = H("avow/tensor/1", u64 byte length ‖ RFC 6962 root over the chunks). The length, and with it the number of
   chunks, is bound: nothing can be left out, put in or repeated.
2. The chunks of a program's constants are public: the RFC 6962 leaf is the chunk itself. A constant of one dimension, of which operators
   read single values, has chunks of 256 bytes.
3. The chunks of a run are private until one is opened: the RFC 6962 leaf is salt ‖ chunk, 16 bytes of salt for each chunk. Hashes
   beside an opened chunk tell nothing about their contents, however easy these are to guess.
   key = H("avow/trace-key/1", seed), where seed is the opening's;  block(slot, j) = SHA-256(key ‖ u64 slot ‖ u64 j);
   salt(slot, n) = block(slot, n // 2)[16·(n mod 2) : 16·(n mod 2) + 16].
   The header holds H("avow/trace-salts/1", key): a chunk under any other salt than its own is a fault by itself.
4. Slot i, for i < 2^62, is leaf i; 2^63 + k is program input k; 2^62 + k is program output k.
5. A run gives one leaf per step and operator that has one by the program, leaf i = step · leaves + rank: the digest of the operator's
   output, or 32 zero bytes where the operator does not run at that step. The leaves are the data of an RFC 6962 tree.
   A leaf holds an output only. What an operator read is no claim: the program says which leaves, constants and inputs those are.
6. The header binds the program, the number of steps and leaves, the leaves' root, the digests of the program's inputs and outputs,
   the salts' key, the sampling parameters and the reason for the end. trace = H("avow/trace/1", header), which the statement carries.
   Program inputs and outputs are whole tensors over all steps; those of a language model are token ids: the prompt's, the chosen.

Pure: no clock, no randomness, no input or output, integers and bytes only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, Protocol, Self

from avow.receipt import fields, merkle
from avow.receipt.encoding import Value, decode, encode, tagged_hash

CHUNK = 1_024
"""Bytes of a tensor under one leaf of its tree."""
TABLE_CHUNK = 256
"""Of a constant of one dimension."""
SALT = 16
SEED = 32
KEY = 32
ABSENT = bytes(32)
"""The leaf of an operator that does not run at a step: no digest, since no SHA-256 is known to be zero."""
INPUT_SLOT = 1 << 63
OUTPUT_SLOT = 1 << 62
MAX_LEAVES = 1 << 40
MAX_ENDS = 64
"""Program inputs, or outputs, of one program."""
MAX_HEADER = 8_192

Finish = Literal["whole", "length", "end", "text"]
"""Why a run ended: it has no other end (`whole`); the greatest number of tokens, or the context, is reached (`length`); an end token
was chosen (`end`); something outside of the program (`text`): a stop text, or the caller left."""
FINISHES: tuple[Finish, ...] = ("whole", "length", "end", "text")
_FINISH_OF: dict[str, Finish] = {finish: finish for finish in FINISHES}
PARAMETERS = ("max_tokens", "seed", "temperature_m", "temperature_s")
"""What a language model's run is sampled with; other programs have none."""

_TENSOR_TAG = b"avow/tensor/1"
_TENSOR_PREFIX = len(_TENSOR_TAG).to_bytes(1) + _TENSOR_TAG
_KEY_TAG = b"avow/trace-key/1"
_KEY_PREFIX = len(_KEY_TAG).to_bytes(1) + _KEY_TAG
SALTS_TAG = b"avow/trace-salts/1"
TRACE_TAG = b"avow/trace/1"

Buffer = bytes | bytearray | memoryview
"""A tensor's little-endian bytes; a memoryview is contiguous and of format "B"."""


# --- Tensors (rules 1 to 4) ----------------------------------------------------------------------------------------


def constant_chunk(shape: Sequence[int]) -> int:
    """The bytes of a chunk of a constant (rule 2)."""
    return TABLE_CHUNK if len(shape) == 1 else CHUNK


def chunk_count(length: int, size: int = CHUNK) -> int:
    """How many chunks of `size` bytes a tensor of `length` bytes has."""
    return -(-length // size)


def chunk_length(length: int, chunk: int, size: int = CHUNK) -> int:
    """The bytes in chunk number `chunk` of a tensor of `length` bytes; 0 ≤ chunk < chunk_count(length)."""
    return min(size, length - chunk * size)


def chunks(data: Buffer, size: int = CHUNK) -> Iterator[bytes]:
    """The tensor's chunks in order."""
    view = memoryview(data)
    for start in range(0, len(view), size):
        yield bytes(view[start : start + size])


def tensor_digest(length: int, root: bytes) -> bytes:
    """Rule 1: a tensor's digest from its byte length and the root over its chunks."""
    return sha256(_TENSOR_PREFIX + length.to_bytes(8) + root).digest()


def constant_digest(data: Buffer, size: int = CHUNK) -> bytes:
    """The digest of a constant in chunks of `size` bytes (rule 2)."""
    return tensor_digest(len(data), merkle.root(list(chunks(data, size))))


def constant_chunk_hash(chunk: bytes) -> bytes:
    """Rule 2's leaf."""
    return merkle.leaf_hash(chunk)


def chunk_hash(salt: bytes, chunk: bytes) -> bytes:
    """Rule 3's leaf; the salt has 16 bytes."""
    return sha256(b"\x00" + salt + chunk).digest()


def commitment_to(key: bytes) -> bytes:
    """What a header says of the key of a run's salts."""
    return tagged_hash(SALTS_TAG, key)


class Salts:
    """The salts of one run, out of the 32 bytes of its opening's seed. Whoever knows the seed, or the key, knows them all."""

    __slots__ = ("_key",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED:
            raise ValueError("a seed has 32 bytes")
        self._key = sha256(_KEY_PREFIX + seed).digest()

    @classmethod
    def under(cls, key: bytes) -> Self:
        """Those under a key that somebody committed to, whatever it was made of."""
        if len(key) != KEY:
            raise ValueError("a key has 32 bytes")
        salts = cls.__new__(cls)
        salts._key = key  # noqa: SLF001  # one of its own
        return salts

    @classmethod
    def of(cls, source: "Salts | bytes") -> "Salts":
        """Salts as they are, or those of a seed."""
        return source if isinstance(source, Salts) else cls(source)

    @property
    def key(self) -> bytes:
        """Rule 3's key, for bulk hashing."""
        return self._key

    @property
    def commitment(self) -> bytes:
        """The header's member."""
        return commitment_to(self._key)

    def salt(self, slot: int, chunk: int) -> bytes:
        """The 16 bytes before chunk number `chunk` of the tensor in `slot`."""
        start = SALT * (chunk & 1)
        return sha256(self._key + slot.to_bytes(8) + (chunk >> 1).to_bytes(8)).digest()[start : start + SALT]

    def chunk_hashes(self, slot: int, data: Buffer) -> list[bytes]:
        """The leaves of a run's tensor, hashed."""
        return [chunk_hash(self.salt(slot, number), chunk) for number, chunk in enumerate(chunks(data))]

    def digest(self, slot: int, data: Buffer) -> bytes:
        """The digest of a run's tensor (rules 1 and 3)."""
        return tensor_digest(len(data), merkle.root_of_hashes(self.chunk_hashes(slot, data)))


# --- Header (rule 6) -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """What a trace says of a run as a whole.

    `prompt` is the number of the prompt's tokens, 0 for what is no language model; `parameters` are empty then. `leaves` is
    steps · leaves of a step, `root` the RFC 6962 root over them; `inputs` and `outputs` are digests; `salts` is rule 3's hash of the key.
    """

    program: bytes
    steps: int
    prompt: int
    parameters: Mapping[str, int]
    finish: Finish
    leaves: int
    root: bytes
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]
    salts: bytes

    def to_value(self) -> Value:
        return {
            "version": 1,
            "program": self.program,
            "steps": self.steps,
            "prompt": self.prompt,
            "parameters": dict(self.parameters),
            "finish": self.finish,
            "leaves": self.leaves,
            "root": self.root,
            "inputs": list(self.inputs),
            "outputs": list(self.outputs),
            "salts": self.salts,
        }

    def encoded(self) -> bytes:
        return encode(self.to_value())

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """The header whose one encoding is `data`. Raises EncodingError, TooLarge or UnknownVersion."""
        names = (
            "finish", "inputs", "leaves", "outputs", "parameters", "program", "prompt", "root", "salts", "steps", "version",
        )  # fmt: skip
        item = fields.mapping(decode(data, max_bytes=MAX_HEADER, max_items=1_024), "header", names)
        fields.version(item["version"], "trace", 1)
        finish = _FINISH_OF.get(fields.text(item["finish"], "finish", max_length=8))
        if finish is None:
            raise fields.FieldError("finish is none of the known reasons", field="finish")
        return cls(
            program=fields.octets(item["program"], "program", 32),
            steps=fields.integer(item["steps"], "steps", maximum=MAX_LEAVES),
            prompt=fields.integer(item["prompt"], "prompt", maximum=MAX_LEAVES),
            parameters=_parameters(item["parameters"]),
            finish=finish,
            leaves=fields.integer(item["leaves"], "leaves", maximum=MAX_LEAVES),
            root=fields.octets(item["root"], "root", 32),
            inputs=_digests(item["inputs"], "inputs"),
            outputs=_digests(item["outputs"], "outputs"),
            salts=fields.octets(item["salts"], "salts", 32),
        )


def _parameters(value: Value) -> Mapping[str, int]:
    if value == {}:
        return {}
    item = fields.mapping(value, "parameters", PARAMETERS)
    return {name: fields.integer(item[name], name) for name in PARAMETERS}


def _digests(value: Value, field: str) -> tuple[bytes, ...]:
    return tuple(fields.octets(item, field, 32) for item in fields.array(value, field, max_length=MAX_ENDS))


def trace_of(header: bytes) -> bytes:
    """The 32 bytes that a statement carries."""
    return tagged_hash(TRACE_TAG, header)


# --- Recording (rule 5) --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trace:
    """A finished trace: the encoded header, its hash, and the leaves' data (digests) in order."""

    header: bytes
    trace: bytes
    leaves: Sequence[bytes]


class Tracer(Protocol):
    """What a run reports to. Within a step operators come in order; one that does not run is left out.

    A machine may leave out operators without a leaf where it knows that the tracer does not look at them.
    """

    def record(self, step: int, operator: int, data: Buffer) -> None:
        """The output of `operator` at `step`. The bytes are read before the call returns."""

    def finish(
        self,
        *,
        program: bytes,
        steps: int,
        prompt: int,
        parameters: Mapping[str, int],
        finish: Finish,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
    ) -> Trace:
        """The trace of the whole run."""
        ...


def ranks_of(operators: int | Sequence[int]) -> Sequence[int]:
    """The ranks of operators' leaves; of a number of operators, all of which have one, their own numbers."""
    return range(operators) if isinstance(operators, int) else operators


def leaves_of(ranks: Sequence[int]) -> int:
    """How many leaves a step has."""
    return max(ranks, default=-1) + 1


class Recorder:
    """The tracer that defines the others: one hash at a time, rule by rule."""

    def __init__(self, salts: Salts | bytes, operators: int | Sequence[int]) -> None:
        """`salts`: or the seed that they come from. `operators`: of each the rank of its leaf, −1 for none; or how many there are, all with
        one.
        """
        self._salts = Salts.of(salts)
        self._ranks = ranks_of(operators)
        self._width = leaves_of(self._ranks)
        self._leaves: list[bytes] = []

    def record(self, step: int, operator: int, data: Buffer) -> None:
        rank = self._ranks[operator] if 0 <= operator < len(self._ranks) else None
        if rank is not None and rank < 0:
            return
        if rank is None or step * self._width + rank < len(self._leaves):
            raise ValueError("operators are recorded in order, each once")
        index = step * self._width + rank
        self._leaves.extend([ABSENT] * (index - len(self._leaves)))
        self._leaves.append(self._salts.digest(index, data))

    def finish(
        self,
        *,
        program: bytes,
        steps: int,
        prompt: int,
        parameters: Mapping[str, int],
        finish: Finish,
        inputs: Sequence[Buffer],
        outputs: Sequence[Buffer],
    ) -> Trace:
        count = steps * self._width
        self._leaves.extend([ABSENT] * (count - len(self._leaves)))
        if len(self._leaves) != count:
            raise ValueError("more was recorded than the run has steps")
        header = Header(
            program=program,
            steps=steps,
            prompt=prompt,
            parameters=parameters,
            finish=finish,
            leaves=count,
            root=merkle.root(self._leaves),
            inputs=tuple(self._salts.digest(INPUT_SLOT + slot, data) for slot, data in enumerate(inputs)),
            outputs=tuple(self._salts.digest(OUTPUT_SLOT + slot, data) for slot, data in enumerate(outputs)),
            salts=self._salts.commitment,
        ).encoded()
        return Trace(header, trace_of(header), tuple(self._leaves))
