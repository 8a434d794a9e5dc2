"""Runs that are traced, by honest parties and by liars, and who answers for them."""

from dataclasses import dataclass, field, replace

from avow.exact import descent
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Recorder, Salts, Trace, chunks, trace_of
from avow.exact.program import Program
from avow.exact.prover import Subject
from avow.exact.specification import KINDS, Parameters, Step
from avow.exact.specification.machine import Memory, MemoryCells
from avow.exact.specification.machine import run as machine_run
from avow.exact.tensors import pack, size_of, unpack
from avow.receipt import merkle
from avow.receipt.encoding import encode, tagged_hash

SEED = bytes(range(32))


def manifest_of(program: Program) -> bytes:
    return encode({"engine": "exact", "options": {"root": program.root.hex()}, "version": 1})


def program_id(manifest: bytes) -> bytes:
    return tagged_hash(b"avow/program/1", manifest)


class Keeper:
    """A tracer that keeps every tensor by its step and operator."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int], bytes] = {}

    def record(self, step, operator, data):
        self.found[step, operator] = bytes(data)

    def tensors(self, program: Program) -> dict[int, bytes]:
        """Those that have a leaf, by slot."""
        ranks, width = program.ranks, program.head.leaves
        return {step * width + ranks[number]: data for (step, number), data in self.found.items() if ranks[number] >= 0}

    def finish(self, **_):
        raise AssertionError


@dataclass
class Claim:
    """A committed trace with all that is behind it: answers demands, and serves as one's own run."""

    program: Program
    header_bytes: bytes
    digests: list[bytes]
    tensors: dict[int, bytes]
    salts: dict[int, Salts]
    lengths: dict[int, int] = field(default_factory=dict)
    refused: int = 0
    """How many demands to leave without an answer, from now on; −1 for all."""
    asked: list = field(default_factory=list)

    @property
    def trace(self) -> bytes:
        return trace_of(self.header_bytes)

    @property
    def parsed(self) -> Header:
        return Header.parse(self.header_bytes)

    @property
    def subject(self) -> Subject:
        return Subject(self.program, manifest_of(self.program), self.trace)

    # as descent.Committed

    def header(self):
        return self.header_bytes

    def key(self):
        return self.salts[-1].key

    def leaves(self):
        return self.digests

    def tensor(self, slot):
        data = self.tensors[slot]
        salts = self.salts.get(slot, self.salts[-1])
        return self.lengths.get(slot, len(data)), [salts.salt(slot, n) + chunk for n, chunk in enumerate(chunks(data))]

    # as claims.Respondent

    def ask(self, demand):
        assert descent.Demand.parse(demand.encoded()) == demand
        descent.check(demand, self.trace)
        self.asked.append(demand.asked)
        if self.refused:
            self.refused -= self.refused > 0
            return None
        return descent.answer_to(demand, self)

    # making

    def commit(self, **changes) -> "Claim":
        """The same, committed to anew: digests of what is in `tensors`, the header changed by `changes`.

        What the header says of the salts stays as it was.
        """
        digests = [self.digest(slot) if slot in self.tensors else bytes(32) for slot in range(len(self.digests))]
        old = self.parsed
        values = {
            "root": merkle.root(digests),
            "inputs": tuple(self.digest(INPUT_SLOT + k) for k in range(len(old.inputs))),
            "outputs": tuple(self.digest(OUTPUT_SLOT + k) for k in range(len(old.outputs))),
        }
        return replace(self, header_bytes=replace(old, **(values | changes)).encoded(), digests=digests, asked=[])

    def digest(self, slot):
        from avow.exact.hashing import tensor_digest

        length, salted = self.tensor(slot)
        return tensor_digest(length, merkle.root(salted))

    def altered(self, slot, index, value, **changes) -> "Claim":
        """One value changed, and committed to."""
        kind = self.type_of(slot)
        values = list(unpack(kind, self.tensors[slot]))
        values[index] = value
        return replace(self, tensors={**self.tensors, slot: pack(kind, values)}).commit(**changes)

    def type_of(self, slot):
        if slot >= INPUT_SLOT:
            return self.program.inputs[slot - INPUT_SLOT].type
        if slot >= OUTPUT_SLOT:
            return self.program.operators[self.program.outputs[slot - OUTPUT_SLOT]].type
        return self.program.operators[self.program.place(slot)[1]].type


class OwnRun:
    """A claim as one's own run."""

    def __init__(self, claim: Claim) -> None:
        self.leaves = claim.digests
        self.tensor = claim.tensors.__getitem__


def traced(program: Program, inputs, parameters=None, *, seed=SEED, steps=None, tamper=None, finish=None) -> Claim:
    """Run and commit. `steps`: run on past end tokens to as many. `tamper(step, operator, values)` may change what goes on."""
    keeper = Keeper()
    prompt = len(inputs[0]) // 4 if program.mode == "generate" else 0
    if steps is None and tamper is None:
        result = machine_run(program, inputs, parameters=parameters, tracer=keeper)
        steps, outputs, ended = result.steps, list(result.outputs), result.finish
    else:
        steps, ended = _run(program, inputs, prompt, parameters, steps, tamper, keeper)
        outputs = [
            b"".join(keeper.found[step, number] for step in range(max(prompt - 1, 0), steps))
            for number in program.outputs
        ]
    recorder = Recorder(seed, program.ranks)
    for place in sorted(keeper.found):
        recorder.record(*place, keeper.found[place])
    p = parameters or Parameters()
    trace: Trace = recorder.finish(
        program=program.root,
        steps=steps,
        prompt=prompt,
        parameters={name: getattr(p, name) for name in ("max_tokens", "seed", "temperature_m", "temperature_s")}
        if prompt
        else {},
        finish=finish or ended,
        inputs=inputs,
        outputs=outputs,
    )
    ends = {INPUT_SLOT + k: data for k, data in enumerate(inputs)} | {
        OUTPUT_SLOT + k: data for k, data in enumerate(outputs)
    }
    return Claim(program, trace.header, list(trace.leaves), {**keeper.tensors(program), **ends}, {-1: Salts.of(seed)})


def _run(program, inputs, prompt, parameters, steps, tamper, keeper):
    """The slow machine's loop, with a hand in it."""
    values = [unpack(tensor.type, data) for tensor, data in zip(program.inputs, inputs)]
    memory = Memory(program, values)
    wanted = steps or (len(values[0]) // size_of(program.inputs[0].shape) if not prompt else program.context)
    chosen, ended, done = 0, "whole", 0
    for at in range(wanted):
        step = Step(at, prompt, parameters or Parameters())
        memory.next_step()
        for index, operator in enumerate(program.operators):
            if operator.phase and at < prompt - 1:
                memory.now.append(())
                continue
            cells = MemoryCells(memory, operator, step)
            element = KINDS[operator.kind].element
            found = tuple(element(operator, cells, i, step) for i in range(size_of(operator.shape, step.positions)))
            if tamper is not None:
                found = tamper(at, index, found)
            memory.now.append(found)
            if operator.kind == "append":
                memory.pages[index, at // 64] = found
            keeper.record(at, index, pack(operator.type, found))
        done = at + 1
        if prompt and done >= prompt:
            chosen += 1
            ends = memory.now[program.token][0] in program.end
            ended = "end" if ends else "length"
            if steps is None and (ends or chosen == parameters.max_tokens):
                break
    return done, ended


def honest_beside(claim: Claim, inputs, parameters=None) -> OwnRun:
    """The watcher's own run, laid beside a claim."""
    return OwnRun(traced(claim.program, inputs, parameters, steps=claim.parsed.steps))
