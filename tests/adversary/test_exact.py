"""Programs that no loader would take, registered to break the referee; traces and answers made to break whoever watches.

The chain takes any program's id. So a stranger chooses every record, constant and value that a fraud proof of its own statement opens. A
referee that fails otherwise than by a typed refusal stops every full node at once.
"""

from dataclasses import dataclass, field, replace
from random import Random

import pytest

from avow.exact import fraud, hashing, openings
from avow.exact.committed import CommittedRun
from avow.exact.fraud import FraudProof, NotShown, Opened, ProofError
from avow.exact.hashing import CHUNK, INPUT_SLOT, OUTPUT_SLOT, SALT, Header, Salts, trace_of
from avow.exact.program import CONSTANT, INPUT, NO_LEAF, OPERATOR, PREVIOUS, Head, Operator, Source, Tensor
from avow.exact.prover import OtherInputs, Subject, check_header, find_fault
from avow.exact.referee import Guilty, referee
from avow.exact.sites import Layout, Site
from avow.exact.specification import KINDS, Parameters, check_form
from avow.exact.tensors import RANGES, WIDTHS, size_of
from avow.receipt import merkle
from avow.receipt.encoding import encode, tagged_hash
from tests.exact import language_model, programs
from tests.exact.traces import SEED, manifest_of, program_id

HEAD = Head("once", 64, (Tensor("int8", (4,), -1, 1),), (0,), (), -1, bytes(32), 8, bytes(32), 1, bytes(32), 8)


def source(origin, number, kind, shape, low=None, high=None):
    least, most = RANGES[kind]
    leaf = NO_LEAF if origin in (CONSTANT, INPUT) else number
    return Source(origin, number, kind, shape, least if low is None else low, most if high is None else high, leaf)


@dataclass
class Stranger:
    """Commits to a run of one record, with random values in the shapes that the referee expects, and opens all that it may read."""

    record: Operator
    number: int = 5
    head: Head = HEAD
    step: int = 0
    steps: int = 1
    prompt: int = 0
    parameters: dict = field(default_factory=dict)
    seed: int = 1
    most: int = 8 * CHUNK

    def __post_init__(self):
        self.random = Random(self.seed)
        self.record = replace(self.record, leaf=self.number)
        self.site = Site(self.head, self.record, self.number, self.step, self.steps, self.prompt)
        self.opened, self.digests, self.ends = {}, {}, {}
        self.constants, self.records = {}, {}

    def _tensor(self, slot, layout: Layout, low, high, salt):
        width, count = WIDTHS[layout.type], min(layout.size, self.most // WIDTHS[layout.type])
        values = [self.random.choice((low, high, self.random.randint(low, high))) for _ in range(count)]
        data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
        whole = count == layout.size
        chunks = [bytes(salt) + data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        chunks = [chunk for chunk in chunks if whole or len(chunk) == salt + CHUNK]
        hashes = {number: merkle.leaf_hash(chunk) for number, chunk in enumerate(chunks)}
        total = hashing.chunk_count(layout.length)
        beside = [bytes(32)] * len(openings.missing(total, list(hashes)))
        digest = hashing.tensor_digest(layout.length, openings.root_of(total, hashes, beside))
        return Opened(slot, tuple(enumerate(chunks)), tuple(beside)), digest

    def _run(self, slot, low, high):
        layout = self.site.layout_at(slot)
        if slot not in self.opened and layout is not None:
            self.opened[slot], digest = self._tensor(slot, layout, low, high, SALT)
            (self.ends if slot >= INPUT_SLOT else self.digests)[slot] = digest

    def _read(self, item):
        if item.origin == CONSTANT:
            first = self.site.constant(item.id)
            opened, digest = self._tensor(item.id, self.site.layout_of(first), first.low, first.high, 0)
            self.constants.setdefault(item.id, opened)
            self.records.setdefault(item.id, encode([first.type, list(first.shape), digest]))
        elif item.origin == programs.CACHE:
            for slot in self.site.pages(item):
                self._run(slot, item.low, item.high)
        elif self.site.slot_of(item) is not None:
            self._run(self.site.slot_of(item), item.low, item.high)

    def judge(self, index=0, witness=None):
        self._run(self.site.slot, self.record.low, self.record.high)
        for item in self.record.inputs:
            self._read(item)
        records = [b"other"] * self.head.operators
        records[self.number] = self.record.encoded()
        count = max([1, *(number + 1 for number in self.constants)])
        operators = merkle.tree(records)
        constants = merkle.tree([self.records.get(number, b"other") for number in range(count)])
        head = replace(self.head, operators_root=operators[-1][0], constants=count, constants_root=constants[-1][0])
        leaves = self.steps * head.leaves
        tree = merkle.tree([self.digests.get(slot, b"other") for slot in range(leaves)])
        shown = sorted(slot for slot in self.opened if slot < leaves)
        header = Header(
            head.root(), self.steps, self.prompt, self.parameters, "text" if self.prompt else "whole", leaves, tree[-1][0],
            tuple(self.ends.get(INPUT_SLOT + at, bytes(32)) for at in range(len(head.inputs))),
            tuple(bytes(32) for _ in head.outputs),
            bytes(32),
        ).encoded()  # fmt: skip
        manifest = encode({"engine": "exact", "options": {"root": head.root().hex()}, "version": 1})
        proof = FraudProof(
            "element", manifest, header, head.encoded(), self.site.slot, records[self.number],
            tuple(merkle.path_in(operators, self.number)), index, witness,
            tensors=tuple(self.opened[slot] for slot in sorted(self.opened)),
            leaves=tuple(openings.multiproof(tree, shown)) if shown else (),
            constants=tuple(self.constants[number] for number in sorted(self.constants)),
            constant_hashes=tuple(openings.multiproof(constants, sorted(self.constants))) if self.constants else (), operator=self.number,
        )  # fmt: skip
        return referee(proof.encoded(), program_id(manifest), trace_of(header))


ALIASED = {
    "an operator of two sizes": Operator(
        "add", (source(OPERATOR, 1, "int8", (1,)), source(OPERATOR, 1, "int8", (1000,))), "int8", (1000,), -128, 127, 0,
        {"ma": 1, "mb": 1, "s": 0},
    ),
    "a constant of two sizes": Operator(
        "add", (source(CONSTANT, 0, "int8", (1,)), source(CONSTANT, 0, "int8", (1000,))), "int8", (1000,), -128, 127, 0,
        {"ma": 1, "mb": 1, "s": 0},
    ),
    "itself, in another size": Operator(
        "slice", (source(OPERATOR, 5, "int8", (1000,)),), "int8", (1,), -128, 127, 0, {"starts": (999,), "steps": (1,)}
    ),
    "a row that is empty": Operator("argmax", (source(OPERATOR, 5, "int32", (600,)),), "int32", (1,), 0, 599),
    "a node of three members": Operator(
        "trees", (source(CONSTANT, 0, "int32", (3,)), source(CONSTANT, 0, "int32", (1, 1, 4))), "int32", (1,), -9, 9, 0,
        {"depth": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIASED)
def test_one_tensor_is_not_read_as_of_two_layouts(name):
    record = ALIASED[name]
    with pytest.raises(NotShown):
        Stranger(record).judge(index=size_of(record.shape) - 1)


def test_inputs_of_different_rank_are_not_concatenated():
    sources = source(OPERATOR, 1, "int8", (2, 3)), source(OPERATOR, 2, "int8", (2,))
    with pytest.raises(NotShown, match="differ beside the axis"):
        Stranger(Operator("concat", sources, "int8", (2, 4), -128, 127, 0, {"axis": 1})).judge()


@pytest.mark.parametrize(("index", "slot"), [(1 << 63, INPUT_SLOT), ((1 << 64) - 1, (1 << 64) - 1)])
def test_an_output_far_beyond_the_run_has_no_value(index, slot):
    """The step that such an index comes from has a tensor of more bytes than a length can say."""
    record = Operator("reshape", (source(OPERATOR, 0, "int8", (1,)),), "int32", (-1,), -5, 5)
    tree = merkle.tree([record.encoded()])
    head = replace(
        HEAD, operators=1, operators_root=tree[-1][0], constants=0, constants_root=merkle.EMPTY_LIST_ROOT, leaves=1
    )
    total = hashing.chunk_count(Site(head, record, 0, index, 1, 0).layout.length)
    opened = Opened(slot, ((0, bytes(SALT + CHUNK)),), (bytes(32),) * len(openings.missing(total, [0])))
    header = Header(head.root(), 1, 0, {}, "whole", 1, bytes(32), (bytes(32),), (bytes(32),), bytes(32)).encoded()
    manifest = encode({"engine": "exact", "options": {"root": head.root().hex()}, "version": 1})
    proof = FraudProof(
        "output", manifest, header, head.encoded(), OUTPUT_SLOT, record.encoded(), (), index, tensors=(opened,)
    )
    with pytest.raises(NotShown, match="no such value"):
        referee(proof.encoded(), tagged_hash(b"avow/program/1", manifest), trace_of(header))


def bent(random, record):
    """A record with a source, an extent, an attribute or its kind changed into something that no compiler makes."""
    what = random.randrange(6)
    if what < 3 and record.inputs:
        inputs = list(record.inputs)
        at = random.randrange(len(inputs))
        item = inputs[at]
        inputs[at] = random.choice((
            lambda: replace(item, id=random.choice((0, 1, 2, 5, 7))),
            lambda: replace(item, origin=random.choice((OPERATOR, PREVIOUS, CONSTANT, INPUT))),
            lambda: replace(random.choice(inputs), shape=item.shape),
            lambda: replace(item, shape=tuple(random.choice((1, 2, extent, extent + 1, 64)) for extent in item.shape)),
            lambda: replace(item, shape=(*item.shape, random.choice((1, 2, -1)))[:8]),
        ))()  # fmt: skip
        return replace(record, inputs=tuple(inputs))
    if what == 3:
        shape = tuple(random.choice((1, 2, extent, extent + 1, 1000)) for extent in record.shape)
        return replace(record, shape=shape)
    if what == 4 and record.attributes:
        name = random.choice(sorted(record.attributes))
        value = random.choice((0, 1, -1, 2, 45, 46, 1 << 45, -(1 << 62)))
        old = record.attributes[name]
        changed = (value, *old[1:]) if isinstance(old, tuple) else value
        return replace(record, attributes={**record.attributes, name: changed})
    return replace(record, kind=random.choice(sorted(KINDS)))


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_no_record_breaks_the_referee(start):
    for seed in range(start, start + 50):
        random = Random(seed)
        program = programs.program_of(seed % 40, context=8)
        number = random.randrange(len(program.operators))
        record = program.operators[number]
        for _ in range(random.randint(1, 3)):
            record = bent(random, record)
        generates = program.mode == "generate"
        steps = random.randint(1, program.context)
        parameters = {"temperature_m": 1, "temperature_s": 1, "seed": seed, "max_tokens": 1 << 20} if generates else {}
        try:
            Stranger(
                record, number, program.head, random.randrange(steps), steps, random.randint(1, steps) if generates else 0,
                parameters, seed,
            ).judge(random.randrange(max(1, size_of(record.shape, steps))), random.choice((None, 0, 1)))  # fmt: skip
        except ProofError:
            pass
        except OverflowError as error:  # of our own making: no tensor has so many bytes
            assert "too big to convert" in str(error) and max(record.shape) > 1 << 20


# --- What a referee is paid for ------------------------------------------------------------------------------------------


def test_zeros_before_the_first_step_are_not_free():
    """Nothing is opened for them, so the proof is small however much the element reads."""
    wide = Operator(
        "matmul", (source(PREVIOUS, 1, "int8", (1, 16_000)), source(PREVIOUS, 2, "int8", (16_000, 2))), "int8", (1, 2), -128, 127, 0,
        {"transpose_b": 0, "m": 1, "s": 1},
    )  # fmt: skip
    sequence = replace(HEAD, mode="sequence")
    with pytest.raises(NotShown, match="runs of values"):
        Stranger(wide, head=sequence).judge()
    narrow = replace(
        wide,
        inputs=(source(PREVIOUS, 1, "int8", (1, 8_000)), source(PREVIOUS, 2, "int8", (8_000, 2))),
    )
    assert check_form(sequence, 5, narrow)
    assert fraud.gas(b"") >= 400_000


def test_a_whole_row_is_no_witness():
    """The place of the largest of many values is refuted by one of them; sorting a row would cost far more."""
    record = Operator("topk", (source(PREVIOUS, 1, "int8", (33_000,)),), "int32", (256,), 0, 32_999, 0, {"k": 256})
    with pytest.raises(NotShown, match="by a witness"):
        Stranger(record, head=replace(HEAD, mode="sequence")).judge(index=255)


# --- Traces made to break a watcher --------------------------------------------------------------------------------------


@pytest.mark.parametrize("claimed", [[3], [3, 1, 4, 1, 5, 2, 6, 5, 3, 5]])
def test_a_trace_of_another_prompt_is_of_other_inputs(claimed):
    """Whatever its length: a shorter run than the prompt is long cannot be laid beside one's own, and nobody is at fault by length."""
    machine_of = pytest.importorskip("avow.exact.kernels.language_machine").LanguageMachine
    program = language_model.program(64)
    machine, parameters = machine_of(program), Parameters(0, 1, 0, 2)
    prompt = [1, 2, 3, 4, 5, 6]
    lied = machine.follow(claimed, parameters, len(claimed) + 1, Salts(SEED))
    from avow.exact.kernels.tracer import BulkTracer

    _, trace = machine.trace(
        claimed, parameters, BulkTracer(SEED, program.ranks), steps=len(claimed) + 1, finish="text"
    )
    subject = Subject(program, manifest_of(program), trace.trace)
    node = CommittedRun(trace.header, lied, SEED)
    header = check_header(subject, node)
    assert isinstance(header, Header)
    own = machine.follow(prompt, parameters, max(header.steps, len(prompt)), Salts(SEED))
    with pytest.raises(OtherInputs):
        find_fault(subject, header, own, Salts(SEED), node)


def test_guilty_stays_guilty():
    """A stranger's own record still convicts where it is wrong: the referee refuses what has no meaning, not what is unusual."""
    record = Operator("clip", (source(OPERATOR, 1, "int8", (1,), 0, 0),), "int8", (1,), 1, 1)
    with pytest.raises(ProofError):
        Stranger(record).judge()
    record = replace(record, low=1, high=2, inputs=(source(OPERATOR, 1, "int8", (1,), 0, 0),))
    outcomes = set()
    for seed in range(8):
        try:
            outcomes.add(Stranger(record, seed=seed).judge())
        except ProofError:
            outcomes.add(None)
    assert outcomes == {None, Guilty("element", 5, 0)}


@pytest.mark.parametrize("effective", [b"\xff", b"[]", b"", b"[" * 100_000, b'{"a": 1e999}'])
def test_effective_parameters_that_nobody_can_read_are_not_the_requests(effective):
    """They are committed to as bytes, so a node may commit to any; a watcher says so and goes on."""
    check = pytest.importorskip("avow.nodes.watcher.check")

    class Engine:
        def effective(self, _request):
            return {"seed": 1}

    assert check._effective(Engine(), {}, effective) is None


@pytest.mark.parametrize(
    "response",
    [b'{"choices": [{"message": null}]}', b'{"choices": [{"message": [1]}, null]}', b'{"a": 1e999}', b'{"choices": 1}'],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_of_any_json_is_compared(response, stream):
    answers = pytest.importorskip("avow.nodes.watcher.answers")
    header = Header(
        program=bytes(32),
        steps=1,
        prompt=1,
        parameters={},
        finish="length",
        leaves=1,
        root=bytes(32),
        inputs=(),
        outputs=(),
        salts=bytes(32),
    )
    said = answers.Said(response, stream=stream, complete=True, usage=None, units=0)
    own = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
    assert said.compare(header, own).event is answers.Event.ANSWER_DIFFERS
