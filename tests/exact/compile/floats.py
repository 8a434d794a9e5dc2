"""Small ONNX models for tests: built node by node, run by ONNX Runtime, compiled, run as integers."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from avow.exact.compile.onnx import Compiled, Options, compile_onnx
from avow.exact.kernels.machine import Machine
from avow.exact.kernels.ports import ports

TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32}


def generator(seed: int = 0) -> Any:
    return np.random.Generator(np.random.PCG64(seed))


@dataclass
class Net:
    """A model in the making: `n.relu(x)` adds a node; constants are arrays among the inputs."""

    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def input(self, name: str, *shape: int, kind: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[kind], shape))
        self.shapes[name] = shape
        return name

    def add(self, operator: str, *inputs: Any, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = []
        for each in inputs:
            if isinstance(each, str):
                names.append(each)
            else:
                self.initializers.append(numpy_helper.from_array(np.asarray(each), f"c{len(self.initializers)}"))
                names.append(self.initializers[-1].name)
        given = [f"v{len(self.nodes)}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(operator, names, given, domain=domain, **attributes))
        return given[0] if outputs == 1 else given

    def model(self, *outputs: str, opset: int = 17, kinds: tuple[str, ...] = ()) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "net",
            self.inputs,
            [
                helper.make_tensor_value_info(name, TYPES[(kinds or ("float32",) * len(outputs))[at]], None)
                for at, name in enumerate(outputs)
            ],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@dataclass
class Checked:
    """What `check` found: relative error of each output, and the compiled program."""

    errors: list[float]
    compiled: Compiled
    kinds: set[str]


def check(
    model: bytes, samples: list[dict[str, Any]], *, bits: int = 12, kernels: str = "numpy", **options: Any
) -> Checked:
    """Compiles a model on samples and compares every output: root mean square error over that of the output."""
    compiled = compile_onnx(
        model,
        Options(bits=bits, weight_bits=options.pop("weight_bits", 12), **options),
        sequences=[[each] for each in samples],
    )
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    machine = Machine(compiled.program, kernels=kernels)  # type: ignore[arg-type]
    inputs, outputs = ports(compiled.program)
    real = [session.run(compiled.flat.output_names, sample) for sample in samples]
    arrays = [
        port.to_integers(
            np.stack([sample[port.name] for sample in samples]).reshape(len(samples), *port.steps_shape[1:])
        )
        for port in inputs
    ]
    found = machine.run(arrays)
    errors = []
    for at, (port, integers) in enumerate(zip(outputs, found, strict=True)):
        exact = port.to_floats(integers)
        expected = np.stack([row[at] for row in real]).reshape(exact.shape).astype(np.float64)
        errors.append(float(np.sqrt(((exact - expected) ** 2).mean() / max(1e-12, (expected**2).mean()))))
    return Checked(errors, compiled, {operator.kind for operator in compiled.program.operators})


def normal(count: int, **shapes: tuple[int, ...]) -> list[dict[str, Any]]:
    """Samples of normal numbers."""
    source = generator(5)
    return [
        {name: source.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(count)
    ]
