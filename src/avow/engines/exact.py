"""Exact programs as an engine: the same bits under every method, on every machine.

Rules:
1. A program is loaded only if its bytes give the root that the manifest names, and its bounds are proven here again.
2. What goes in and comes out is made from floats by the program's notes (exact/kernels/ports.py) and, for a processor, by its own
   rules: both outside of what traces and fraud proofs speak of, and a check by name for whoever holds request and answer.
3. One request is one run: its samples, or the steps of its one sequence. A request that needs no sample run (a file of few bytes) runs
   one of zeros, so that every statement has a trace.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avow.engines.completion import Emit
from avow.engines.errors import EngineClosed, EngineFailed, InvalidOptions, InvalidTensor, WrongKind
from avow.engines.inference_protocol import InferBody, InputTensor, infer_body
from avow.engines.interface import Cost
from avow.engines.onnx import Array, Processor, TensorInfo, check_tensor, output_tensor, to_array
from avow.engines.options import Options
from avow.engines.runtime import package_version
from avow.exact import files
from avow.exact.errors import BadRun
from avow.exact.fraud import MAX_MANIFEST
from avow.exact.hashing import INPUT_SLOT, OUTPUT_SLOT, Header, Salts, Trace
from avow.exact.kernels.machine import Integers, Machine, view_of
from avow.exact.kernels.ports import Port, ports
from avow.exact.kernels.statistics import FastStatistics
from avow.exact.kernels.tracer import BulkTracer, Leaves
from avow.exact.program import Program
from avow.exact.specification import bounds
from avow.exact.tensors import WIDTHS, size_of
from avow.models.store import StoredProgram

PROCESSORS = ("none", "magika", "speech")
KEPT_FROM_MS = 100.0
"""A run of less is run again when somebody asks about it; of a longer one leaves and outputs are kept."""
RECORDED_SCALES = 64
_FLOATS = {"float32": "FP32", "float64": "FP64", "float16": "FP16"}


def program_file(program: StoredProgram) -> Path:
    """The file of a manifest's exact program. Raises InvalidOptions."""
    options, names = program.manifest.options, program.manifest.files
    path = options.get("program", names[0].path if len(names) == 1 else None)
    if not isinstance(path, str):
        raise InvalidOptions("an exact program's manifest names its file and its root", engine="exact")
    if path not in program.paths:
        raise InvalidOptions("the manifest has no such file", engine="exact", path=path[:128])
    return program.paths[path]


def load_program(program: StoredProgram) -> Program:
    """The exact program of a manifest (rule 1). Raises InvalidOptions, BadProgram, EncodingError, TooLarge."""
    if len(program.manifest.encoded()) > MAX_MANIFEST:
        raise InvalidOptions("an exact program's manifest has at most 8 KiB: each fraud proof holds it", engine="exact")
    root = program.manifest.options.get("root")
    if not isinstance(root, str):
        raise InvalidOptions("an exact program's manifest names its file and its root", engine="exact")
    found = files.load(program_file(program))
    if found.root.hex() != root:
        raise InvalidOptions("the program's root is not the manifest's", engine="exact", root=found.root.hex())
    bounds.check(found, FastStatistics())
    return found


class ExactEngine:
    """One loaded program of mode `once` or `sequence`. Thread-safe; more calls than slots wait their turn."""

    name = "exact"
    kind: Literal["chat", "tensor"] = "tensor"

    def __init__(self, program: StoredProgram, exact: Program, *, threads: int, slots: int) -> None:
        options = Options(program.manifest.options, "exact")
        options.text("program", program.manifest.files[0].path)
        options.text("root", "")
        processor = options.text("processor", "none", among=PROCESSORS)
        options.end()
        self.version = f"avow-{package_version('avow')}"
        self.runtime = f"exact-program-{exact.root.hex()}"
        self._program = program
        self._exact = exact
        self._threads = threads
        self._slots = threading.BoundedSemaphore(slots)
        self._machine: Machine | None = Machine(exact, threads=threads)
        self._inputs, self._outputs = ports(exact)
        own = [_info(port) for port in self._inputs], [_info(port) for port in self._outputs]
        self._recorded = {"inputs": _recorded(self._inputs), "outputs": _recorded(self._outputs)}
        self._processor = _processor(processor, program, *own)
        self._processor_name = processor
        self.inputs: Sequence[TensorInfo] = self._processor.inputs if self._processor else own[0]
        self.outputs: Sequence[TensorInfo] = self._processor.outputs if self._processor else own[1]

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return {
            "name": self._program.manifest.name,
            "versions": [self._program.program_id.hex()],
            "platform": "avow_exact",
            "inputs": [tensor.as_json() for tensor in self.inputs],
            "outputs": [tensor.as_json() for tensor in self.outputs],
        }

    def effective(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter that shapes the answer. Raises InvalidRequest, InvalidTensor."""
        body = infer_body(request)
        return {
            "program": self._program.program_id.hex(),
            "engine": {
                "name": self.name,
                "root": self._exact.root.hex(),
                "mode": self._exact.mode,
                "processor": self._processor_name,
            },
            "outputs": self._wanted(body),
            **({} if self._processor else {"ports": self._recorded}),
        }

    def chat(
        self,
        request: Mapping[str, Any],  # noqa: ARG002  # the interface's, as are the next two
        effective: Mapping[str, Any],  # noqa: ARG002
        emit: Emit | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        raise WrongKind("this program takes tensors: use /v2/models/…/infer", program=self._program.manifest.name)

    def infer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Open Inference Protocol v2; blocks. Raises InvalidRequest, InvalidTensor, EngineFailed, EngineClosed."""
        call = _Call(self, None)
        return self._answer(request, call)

    def traced_chat(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        seed: bytes,
        emit: Emit | None = None,
        *,
        said: str = "",
    ) -> tuple[dict[str, Any], Trace]:
        del request, effective, seed, emit, said
        raise WrongKind("this program takes tensors: use /v2/models/…/infer", program=self._program.manifest.name)

    def traced_infer(self, request: Mapping[str, Any], seed: bytes) -> tuple[dict[str, Any], Trace]:
        """`infer`, and the run's trace, salted from the opening's seed; a KeptTensors where the run took long."""
        call = _Call(self, BulkTracer(seed, self._exact.ranks))
        answer = self._answer(request, call)
        if call.trace is None:
            call.run_zeros()
        assert call.trace is not None
        if call.took_ms < KEPT_FROM_MS:
            return answer, call.trace
        return answer, KeptTensors(call.trace.header, call.trace.trace, call.trace.leaves, call.outputs)

    def replay(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: Header,
        *,
        said: str = "",
    ) -> "Replayed":
        """The honest run of a request, over as many steps as the header claims (missing ones are zeros)."""
        del effective, said
        fitted = [_of_length(array, header.steps) for array in self._integers(request)]
        outputs, trace = self.run(fitted, BulkTracer(salts, self._exact.ranks))
        assert trace is not None
        return Replayed(self, self._exact, fitted, outputs, trace.leaves)

    def _integers(self, request: Mapping[str, Any]) -> list[Integers]:
        """What a request gives the program, which is not run."""
        call = _Inputs(self, None)
        try:
            self._answer(request, call)
        except _Stop:
            assert call.inputs is not None
            return call.inputs
        return self.zeros()

    def kept_bytes(self, request: Mapping[str, Any], effective: Mapping[str, Any]) -> int:
        """How much a run leaves behind, at most: nothing, if it is run again in no time. Raises InvalidRequest, InvalidTensor."""
        del effective
        at_most = max(int(np.prod(tensor.shape)) for tensor in infer_body(request).inputs)
        if at_most * self._step_ms < KEPT_FROM_MS:
            return 0
        program = self._exact
        ends = sum(size_of(program.operators[at].shape) * WIDTHS[program.operators[at].type] for at in program.outputs)
        steps = len(self._integers(request)[0])
        return steps * (32 * program.head.leaves + ends)

    def restore(
        self,
        request: Mapping[str, Any],
        effective: Mapping[str, Any],
        salts: Salts,
        header: bytes,
        data: memoryview,
    ) -> "Replayed":
        """The run that left `data` behind: leaves and outputs. Raises BadRun where that cannot be, InvalidRequest, InvalidTensor."""
        del effective, salts
        said, inputs = Header.parse(header), self._integers(request)
        shapes = [self._exact.operators[number] for number in self._exact.outputs]
        sizes = [said.steps * size_of(each.shape) * WIDTHS[each.type] for each in shapes]
        leaves = 32 * said.leaves
        if len(inputs[0]) != said.steps or len(data) != leaves + sum(sizes):
            raise BadRun("what was kept is not of this run", expected=leaves + sum(sizes), found=len(data))
        outputs, at = [], leaves
        for size in sizes:
            outputs.append(np.frombuffer(data[at : at + size], np.uint8))
            at += size
        digests = np.frombuffer(data[:leaves], np.uint8).reshape(-1, 32)
        return Replayed(self, self._exact, inputs, outputs, Leaves(digests))

    def cost(self) -> Cost:
        """What answers cost at most, measured now: a sample's run; of a sequence, whose steps need those before them, `answer_ms`."""
        Leaves(np.zeros((2, 32), np.uint8)).roots(1, range(1))  # what answers need is compiled from here on
        whole = self._step_ms * self._exact.context
        return Cost(self._step_ms, whole)

    def answer_ms(self, request: Mapping[str, Any]) -> float:
        """A step of a sequence is had by running those before it."""
        if self._exact.mode != "sequence":
            return 0.0
        at_most = max(int(np.prod(tensor.shape)) for tensor in infer_body(request).inputs)
        if at_most * self._step_ms < KEPT_FROM_MS:
            return at_most * self._step_ms
        return len(self._integers(request)[0]) * self._step_ms

    @cached_property
    def _step_ms(self) -> float:
        """A step's run; the least of three, after one that makes things ready."""
        zeros = self.zeros()
        found = []
        for _ in range(4):
            start = time.perf_counter()
            self.run(zeros)
            found.append(1_000 * (time.perf_counter() - start))
        return min(found[1:])

    def tensor(self, inputs: list[Integers], step: int, operator: int) -> bytes:
        """What an operator gives at a step of a run. Raises EngineClosed, BadRun."""
        machine = self._machine
        if machine is None:
            raise EngineClosed("the engine is shutting down")
        return machine.tensor(inputs, step, operator)

    def close(self) -> None:
        """Later calls raise EngineClosed; running ones end by themselves."""
        self._machine = None

    def run(self, inputs: list[Integers], tracer: Any = None) -> tuple[list[Integers], Trace | None]:
        """One run on the program's integers. Raises EngineClosed, BadRun."""
        machine = self._machine
        if machine is None:
            raise EngineClosed("the engine is shutting down")
        with self._slots:
            if tracer is None:
                return machine.run(inputs), None
            return machine.trace(inputs, tracer)

    def arrays_in(self, feeds: Mapping[str, Array]) -> list[Integers]:
        """The program's integers of a run. Raises InvalidTensor."""
        try:
            found = [port.to_integers(feeds[port.name]) for port in self._inputs]
        except BadRun as error:
            raise InvalidTensor(error.detail, param=f"inputs.{error.fields.get('input', '')}") from error
        if len({len(array) for array in found}) != 1:
            raise InvalidTensor("the inputs have different numbers of samples", param="inputs")
        if len(found[0]) > self._exact.context:
            raise InvalidTensor("too many samples in one request", param="inputs", limit=self._exact.context)
        return found

    def arrays_out(self, outputs: Sequence[Integers]) -> dict[str, Array]:
        return {port.name: port.to_floats(array) for port, array in zip(self._outputs, outputs, strict=True)}

    def zeros(self) -> list[Integers]:
        """A sample of zeros, or of what is nearest to them."""
        machine_types = {"int8": np.int8, "int16": np.int16, "int32": np.int32}
        return [
            np.full((1, *port.exact_shape), min(max(0, port.low), port.high), dtype=machine_types[port.exact_type])
            for port in self._inputs
        ]

    def _answer(self, request: Mapping[str, Any], call: "_Call") -> dict[str, Any]:
        body = infer_body(request)
        wanted = self._wanted(body)
        tensors = {tensor.name: tensor for tensor in body.inputs}
        for info in self.inputs:
            if info.name not in tensors:
                raise InvalidTensor("an input is missing", param="inputs", name=info.name[:128])
            check_tensor(info, tensors[info.name])
        if len(tensors) != len(self.inputs):
            unknown = min(set(tensors) - {info.name for info in self.inputs})
            raise InvalidTensor("there is no such input", param=f"inputs.{unknown}")
        try:
            found = self._found(tensors, call)
        except (InvalidTensor, EngineClosed):
            raise
        except BadRun as error:
            raise EngineFailed(error.detail, program=self._program.manifest.name) from error
        answer: dict[str, Any] = {
            "model_name": self._program.manifest.name,
            "model_version": self._program.program_id.hex(),
            "outputs": [output_tensor(name, *found[name]) for name in wanted],
        }
        return answer if body.id is None else {**answer, "id": body.id}

    def _found(self, tensors: Mapping[str, InputTensor], call: "_Call") -> dict[str, tuple[str, Array]]:
        if self._processor:
            return self._processor.infer(tensors, call)
        arrays = call({name: to_array(tensor) for name, tensor in tensors.items()})
        return {info.name: (info.datatype, arrays[info.name]) for info in self.outputs}

    def _wanted(self, body: InferBody) -> list[str]:
        names = [info.name for info in self.outputs]
        wanted = [output.name for output in body.outputs or ()] or names
        for name in wanted:
            if name not in names:
                raise InvalidTensor("there is no such output", param=f"outputs.{name[:128]}")
        if len(set(wanted)) != len(wanted):
            raise InvalidTensor("an output is asked for twice", param="outputs")
        return wanted


class _Call:
    """The one run of one request, as a processor sees it."""

    def __init__(self, engine: ExactEngine, tracer: BulkTracer | None) -> None:
        self._engine = engine
        self._tracer = tracer
        self.inputs: list[Integers] | None = None
        self.outputs: list[Integers] = []
        self.trace: Trace | None = None
        self.took_ms = 0.0

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if self.inputs is not None:
            raise AssertionError("a processor runs its program once")
        return self._engine.arrays_out(self._run(self._engine.arrays_in(feeds)))

    def run_zeros(self) -> None:
        """The run of a request that needed none (rule 3)."""
        self._run(self._engine.zeros())

    def _run(self, inputs: list[Integers]) -> list[Integers]:
        start = time.perf_counter()
        self.inputs = inputs
        self.outputs, self.trace = self._engine.run(inputs, self._tracer)
        self.took_ms = 1_000 * (time.perf_counter() - start)
        return self.outputs


class _Stop(Exception):
    """The inputs are known."""


class _Inputs(_Call):
    """A call that ends where the run would begin."""

    def _run(self, inputs: list[Integers]) -> list[Integers]:
        self.inputs = inputs
        raise _Stop


@dataclass(frozen=True, slots=True)
class KeptTensors(Trace):
    """A trace with its run's outputs."""

    outputs: Sequence[Integers]

    @property
    def parts(self) -> tuple[memoryview, ...]:
        """Leaves and outputs, as `ExactEngine.restore` takes them."""
        assert isinstance(self.leaves, Leaves)
        return self.leaves.data, *(view_of(each) for each in self.outputs)


class Replayed:
    """An honest run as `prover.OwnRun`: its leaves, and any tensor of it by its slot. Several threads may ask at once."""

    def __init__(
        self,
        engine: ExactEngine,
        exact: Program,
        inputs: list[Integers],
        outputs: Sequence[Integers],
        leaves: Sequence[bytes],
    ) -> None:
        self.leaves = leaves
        self._engine = engine
        self._exact = exact
        self._inputs = inputs
        self._ends = {
            first + at: array
            for first, arrays in ((INPUT_SLOT, inputs), (OUTPUT_SLOT, outputs))
            for at, array in enumerate(arrays)
        }

    def tensor(self, slot: int) -> bytes:
        """The bytes of a tensor of the run. Raises KeyError for a slot of nothing."""
        if slot in self._ends:
            return bytes(view_of(self._ends[slot]))
        step, operator = self._exact.place(slot)
        if not 0 <= step < len(self._inputs[0]):
            raise KeyError(slot)
        return self._engine.tensor(self._inputs, step, operator)


def load_exact(program: StoredProgram, *, threads: int, slots: int) -> Any:
    """The engine of an exact program: for chat if it generates, else for tensors. Raises as `load_program`, InvalidOptions."""
    exact = load_program(program)
    if exact.mode == "generate":
        from avow.engines.exact_chat import ExactChat

        return ExactChat(program, exact, slots=slots)
    try:
        return ExactEngine(program, exact, threads=threads, slots=slots)
    except BadRun as error:
        raise EngineFailed(error.detail, program=program.manifest.name) from error


def _of_length(array: Integers, steps: int) -> Integers:
    if len(array) >= steps:
        return array[:steps]
    missing = np.zeros((steps - len(array), *array.shape[1:]), dtype=array.dtype)
    return np.concatenate([array, missing])


def _info(port: Port) -> TensorInfo:
    datatype = _FLOATS.get(port.type, port.type.upper())
    return TensorInfo(port.name, datatype, port.steps_shape)


def _recorded(ports: Sequence[Port]) -> list[dict[str, Any] | None]:
    """What the integers stand for, for whoever compares a receipt without the program (methods/optimistic/ports.py, rule 1).

    None in the place of a port with too many scales to be repeated in every receipt.
    """
    return [
        None
        if len(port.scale) > RECORDED_SCALES
        else {
            "name": port.name,
            "scale": ",".join(repr(float(scale)) for scale in port.scale),
            "rounding": port.rounding,
            "stands_for": port.type,
            "type": port.exact_type,
            "low": port.low,
            "high": port.high,
        }
        for port in ports
    ]


def _processor(
    name: str, program: StoredProgram, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> Processor | None:
    if name == "magika":
        from avow.engines.magika import MagikaProcessor

        return MagikaProcessor(program, inputs, outputs, together=True)
    if name == "speech":
        from avow.engines.speech import SpeechProcessor

        return SpeechProcessor(inputs, outputs)
    return None
