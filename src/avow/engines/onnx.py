"""Tensor programs by ONNX Runtime, with fixed and recorded options.

Rules:
1. The library sees a model only after its digest was checked and models/onnx.py found it sound; it is given bytes, no path,
   so that it cannot open anything.
2. Execution is sequential on the CPU provider, with the threads and the graph optimisation that the effective parameters
   state, both of which change bits (float sums are split and fused differently).
3. A run that takes longer than the program's limit is ended.
"""

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from avow.engines.completion import Emit
from avow.engines.errors import EngineClosed, EngineFailed, InvalidOptions, InvalidTensor, WrongKind
from avow.engines.inference_protocol import InferBody, InputTensor, infer_body, values_of
from avow.engines.options import Options
from avow.engines.runtime import package_version, runtime_id
from avow.models.onnx import ExternalTensor, check_onnx
from avow.models.store import StoredProgram

MAX_MODEL = 1 << 31
MAX_EXTERNAL = 1 << 34
OPTIMISATIONS = ("off", "basic", "extended", "all")

Array = npt.NDArray[Any]

_NUMPY: Mapping[str, Any] = {
    "BOOL": np.bool_,
    **{
        name: getattr(np, name.lower())
        for name in ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64")
    },
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BYTES": np.object_,
}
_ONNX_NAMES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    **{f"tensor({kind}{bits})": f"{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
_EXTERNAL_TYPES: Mapping[int, Any] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}
"""TensorProto.DataType → numpy, for data in sibling files."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output of a program; a dimension of None is free."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": [-1 if n is None else n for n in self.shape]}


class Processor(Protocol):
    """A program's own preparation of inputs and reading of outputs, pinned by its name and its files."""

    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]

    def infer(self, tensors: Mapping[str, InputTensor], run: "Run") -> dict[str, tuple[str, Array]]:
        """Output name → (datatype, values)."""
        ...


class Run(Protocol):
    """Runs the model itself: input arrays by name, output arrays by name."""

    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]: ...


@dataclass(frozen=True, slots=True)
class OnnxOptions:
    """The manifest's options for this engine."""

    model: str
    processor: str
    optimisation: str
    limit_ms: int


def read_options(program: StoredProgram) -> OnnxOptions:
    """The options of a program of this engine. Raises InvalidOptions."""
    options = Options(program.manifest.options, "onnx")
    files = program.manifest.files
    read = OnnxOptions(
        model=options.text("model", files[0].path if len(files) == 1 else None),
        processor=options.text("processor", "none", among=("none", "magika")),
        optimisation=options.text("optimisation", "off", among=OPTIMISATIONS),
        limit_ms=options.integer("limit_ms", 60_000, 1, 3_600_000),
    )
    options.end()
    return read


class OnnxEngine:
    """One loaded program. Thread-safe; more calls than slots wait their turn."""

    name = "onnx"
    kind: Literal["chat", "tensor"] = "tensor"

    def __init__(self, program: StoredProgram, *, threads: int, slots: int) -> None:
        self.version = f"onnxruntime-{package_version('onnxruntime')}"
        self.runtime = runtime_id("onnxruntime", "capi/*.so*")
        self._program = program
        self._options = read_options(program)
        self._threads = threads
        self._slots = threading.BoundedSemaphore(slots)
        self._session: Any = self._start()
        self._inputs = tuple(_info(node) for node in self._session.get_inputs())
        self._outputs = tuple(_info(node) for node in self._session.get_outputs())
        self._processor: Processor | None = None
        if self._options.processor == "magika":
            from avow.engines.magika import MagikaProcessor

            self._processor = MagikaProcessor(program, self._inputs, self._outputs)
        chosen = self._processor or self
        self.inputs: Sequence[TensorInfo] = self._inputs if chosen is self else chosen.inputs
        self.outputs: Sequence[TensorInfo] = self._outputs if chosen is self else chosen.outputs

    def metadata(self) -> dict[str, Any]:
        """The protocol's model metadata."""
        return {
            "name": self._program.manifest.name,
            "versions": [self._program.program_id.hex()],
            "platform": "onnx_onnxruntime",
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
                "version": self.version,
                "runtime": self.runtime,
                "threads": self._threads,
                "inter_op_threads": 1,
                "execution": "sequential",
                "optimisation": self._options.optimisation,
                "deterministic": True,
                "provider": "CPUExecutionProvider",
                "processor": self._options.processor,
            },
            "outputs": self._wanted(body),
            "limit_ms": self._options.limit_ms,
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
        if self._processor:
            found = self._processor.infer(tensors, self._run)
        else:
            arrays = self._run({name: to_array(tensor) for name, tensor in tensors.items()})
            found = {info.name: (info.datatype, arrays[info.name]) for info in self._outputs}
        answer: dict[str, Any] = {
            "model_name": self._program.manifest.name,
            "model_version": self._program.program_id.hex(),
            "outputs": [output_tensor(name, *found[name]) for name in wanted],
        }
        return answer if body.id is None else {**answer, "id": body.id}

    def close(self) -> None:
        """Later calls raise EngineClosed; running ones end by themselves."""
        self._session = None

    def _wanted(self, body: InferBody) -> list[str]:
        names = [info.name for info in self.outputs]
        wanted = [output.name for output in body.outputs or ()] or names
        for name in wanted:
            if name not in names:
                raise InvalidTensor("there is no such output", param=f"outputs.{name[:128]}")
        if len(set(wanted)) != len(wanted):
            raise InvalidTensor("an output is asked for twice", param="outputs")
        return wanted

    def _start(self) -> Any:
        import onnxruntime as ort

        program, options = self._program, self._options
        data = program.read(options.model, limit=MAX_MODEL)
        siblings = {file.path: file.size for file in program.manifest.files if file.path != options.model}
        found = check_onnx(data, siblings)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = self._threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.graph_optimization_level = {
            "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
        }[options.optimisation]
        settings.use_deterministic_compute = True
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            if found.external:
                names, values = _external_values(program, found.external)
                settings.add_external_initializers(names, values)
            return ort.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        except _failures() as error:
            raise EngineFailed("the engine cannot load this model", program=program.manifest.name) from error

    def _run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        import onnxruntime as ort

        session = self._session
        if session is None:
            raise EngineClosed("the engine is shutting down")
        options = ort.RunOptions()
        options.log_severity_level = 4
        names = [info.name for info in self._outputs]
        with self._slots:
            watchdog = threading.Timer(self._options.limit_ms / 1000, lambda: setattr(options, "terminate", True))
            watchdog.daemon = True
            watchdog.start()
            try:
                results = session.run(names, dict(feeds), options)
            except _failures() as error:
                detail = "the run took too long" if options.terminate else "the engine could not run these tensors"
                raise EngineFailed(detail, program=self._program.manifest.name) from error
            finally:
                watchdog.cancel()
        return dict(zip(names, results, strict=True))


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: exceptions of its own, without a common base, beside Python's."""
    state = import_module("onnxruntime.capi.onnxruntime_pybind11_state")

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, TypeError, MemoryError)


def to_array(tensor: InputTensor) -> Array:
    """The tensor as an array of its type and shape. Raises InvalidTensor."""
    values: list[Any] = values_of(tensor)
    if tensor.datatype == "BYTES":
        try:
            values = [value.decode() for value in values]
        except UnicodeDecodeError:
            raise InvalidTensor("this program takes texts (UTF-8)", param=f"inputs.{tensor.name}.data") from None
    return np.array(values, dtype=_NUMPY[tensor.datatype]).reshape(tensor.shape)


def output_tensor(name: str, datatype: str, array: Array) -> dict[str, Any]:
    answer: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(array.shape)}
    if datatype == "BYTES":
        answer["parameters"] = {"content_type": "str"}
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EngineFailed("an output is not a finite number", output=name[:128])
    return {**answer, "data": array.reshape(-1).tolist()}


def _info(node: Any) -> TensorInfo:
    if node.type not in _ONNX_NAMES:
        raise InvalidOptions("an input or output of a type that the protocol cannot carry", tensor=node.name[:128])
    return TensorInfo(node.name, _ONNX_NAMES[node.type], tuple(n if isinstance(n, int) else None for n in node.shape))


def check_tensor(info: TensorInfo, tensor: InputTensor) -> None:
    where = f"inputs.{info.name[:128]}"
    if tensor.datatype != info.datatype:
        raise InvalidTensor(f"this input is {info.datatype}", param=f"{where}.datatype")
    fits = len(tensor.shape) == len(info.shape) and all(
        wanted is None or wanted == given for wanted, given in zip(info.shape, tensor.shape, strict=True)
    )
    if not fits:
        wanted = ["any" if n is None else n for n in info.shape]
        raise InvalidTensor(f"this input's shape is {wanted}", param=f"{where}.shape")


def _external_values(program: StoredProgram, tensors: Sequence[ExternalTensor]) -> tuple[list[str], list[Any]]:
    """Names and values of initializers in sibling files, from bytes whose digests were checked."""
    import onnxruntime as ort

    names: list[str] = []
    values: list[Any] = []
    files: dict[str, bytes] = {}
    for tensor in tensors:
        if tensor.data_type not in _EXTERNAL_TYPES:
            raise EngineFailed("external data of a type that is not read here", tensor=tensor.name[:64])
        if tensor.location not in files:
            files[tensor.location] = program.read(tensor.location, limit=MAX_EXTERNAL)
        part = files[tensor.location][tensor.offset : tensor.offset + tensor.length]
        array = np.frombuffer(part, dtype=_EXTERNAL_TYPES[tensor.data_type]).reshape(tensor.dimensions)
        names.append(tensor.name)
        values.append(ort.OrtValue.ortvalue_from_numpy(array))
    return names, values
